"""
Everyday forms of answers: templates around a gold, each with what it scores with the gold and with a neighbour's gold.

Adding a form is adding a row. `{}` is the gold.
"""

from __future__ import annotations

ANY = [
    "{}",
    " {} ",
    "{}.",
    "**{}**",
    "*{}*",
    "`{}`",
    '"{}"',
    "“{}”",
    "<answer>{}</answer>",
    "<answer>\n{}\n</answer>",
    "The answer is {}.",
    "The answer is {}",
    "The answer is: {}",
    "The final answer is {}. I hope it is correct.",
    "Answer: {}",
    "**Answer**: {}",
    "**Answer:** {}",
    "Final Answer: {}",
    "**Final Answer**\n\n{}",
    "## Final Answer\n{}",
    "### Answer\n\n**{}**",
    "We look at each part in turn and combine them.\n\nThe final answer is {}.",
    "First I considered all of the possible options here.\n\n{}",
    "So, after checking every step, the answer is **{}**.",
    "#### {}",
    "Some reasoning first.\n#### {}",
    "My answer is {}.",
    "Therefore, the correct answer is {}.",
    "answer = {}",
    "ANSWER: {}",
    "The answer to the question is {}.",
    "Thus the answer is {}, as required.",
]
"""Forms of every text and number."""

MATH = [
    "${}$",
    "$${}$$",
    r"\({}\)",
    r"\[{}\]",
    "\\[\n{}\n\\]",
    r"\boxed{{{}}}",
    r"$\boxed{{{}}}$",
    r"The answer is $\boxed{{{}}}$.",
    r"\fbox{{{}}}",
    "The final answer is ${}$. I hope it is correct.",
    "The final answer is: $\\boxed{{{}}}$. I hope it is correct.",
    "Therefore the sum is ${}$, as required.",
    "Hence we obtain \\({}\\).",
    "The answer is:\n\n$${}$$",
    "The answer is \\[ {} \\]",
    "**Final Answer**\n\n$\\boxed{{{}}}$",
]
"""Further forms of a number or a formula."""

DENIED = [
    "The answer is {}, which is wrong.",
    "The answer is not {}.",
    "It is not true that the answer is {}.",
    "I doubt that the answer is {}.",
    r"\boxed{{{}}} is wrong.",
    "The answer is {}? No.",
    "I do not know whether the answer is {}.",
]
"""Forms that score 0 with any gold."""
