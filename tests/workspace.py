"""A workspace in the format of AFlow's search: twenty handwritten rounds on one data set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

HEAD = """from typing import Literal
import workspace.GSM8K.workflows.template.operator as operator
import workspace.GSM8K.workflows.round_{number}.prompt as prompt_custom
from scripts.async_llm import create_llm_instance
from scripts.evaluator import DatasetType

raise SystemExit("a graph must never be run or imported")


class Workflow:
    def __init__(self, name: str, llm_config, dataset: DatasetType) -> None:
        self.name = name
        self.dataset = dataset
        self.llm = create_llm_instance(llm_config)
{operators}

    async def __call__(self, problem: str):
        \"\"\"
        Implementation of the workflow
        \"\"\"
{body}
"""
OPERATORS = {
    "custom": "Custom",
    "answer_generate": "AnswerGenerate",
    "programmer": "Programmer",
    "sc_ensemble": "ScEnsemble",
    "review": "Review",
    "revise": "Revise",
    "format": "Format",
    "test": "Test",
    "custom_code_generate": "CustomCodeGenerate",
    "extract": "Extract",
}
COST = ', self.llm.get_usage_summary()["total_cost"]'
CUSTOM = "solution = await self.custom(input=problem, instruction={})"
RETURN = f"return solution['response']{COST}"
ENSEMBLE = f"""solutions = []
for _ in range({{}}):
    result = await self.custom(input=problem, instruction=prompt_custom.SOLVE)
    solutions.append(result['response'])
solution = await self.sc_ensemble(solutions=solutions, problem=problem)
{RETURN}"""

# Name → body of `__call__`, and its translation or the reason why there is none.
BODIES: dict[str, tuple[str, str]] = {
    "custom": (f"{CUSTOM.format(repr(''))}\n{RETURN}", "Custom"),
    "instructed": (
        f"{CUSTOM.format('prompt_custom.SOLVE')}\n{RETURN}",
        'Custom(instruction="Solve it.\\nThen check.")',
    ),
    "ensemble": (
        ENSEMBLE.format(3),
        "[" + ", ".join(['Custom(instruction="Solve it.\\nThen check.")'] * 3) + "] -> ScEnsemble",
    ),
    "gather": (
        f"""results = await asyncio.gather(*[self.answer_generate(input=problem) for _ in range(2)])
solution = await self.sc_ensemble(solutions=[result['answer'] for result in results], problem=problem)
{RETURN}""",
        "[AnswerGenerate, AnswerGenerate] -> ScEnsemble",
    ),
    "two kinds": (
        f"""first = await self.answer_generate(input=problem)
second = await self.programmer(problem=problem, analysis='None')
solution = await self.sc_ensemble(solutions=[first['answer'], second['output']], problem=problem)
{RETURN}""",
        "[AnswerGenerate, Programmer] -> ScEnsemble",
    ),
    "analysis": (
        f"""draft = await self.custom(input=problem, instruction="")
solution = await self.programmer(problem=problem, analysis=draft['response'])
return solution['output']{COST}""",
        "Custom -> Programmer",
    ),
    "shared start": (
        f"""draft = await self.custom(input=problem, instruction="")
solutions = []
for _ in range(2):
    result = await self.programmer(problem=problem, analysis=draft['response'])
    solutions.append(result['output'])
solution = await self.sc_ensemble(solutions=solutions, problem=problem)
{RETURN}""",
        "Custom -> [Programmer, Programmer] -> ScEnsemble",
    ),
    "in one text": (
        f"""draft = await self.custom(input=problem, instruction="")
solution = await self.custom(input=problem + f"\\nDraft: {{draft['response']}}", instruction=prompt_custom.SOLVE)
{RETURN}""",
        'Custom -> Custom(instruction="Solve it.\\nThen check.")',
    ),
    "condition": (
        f"""solution = await self.custom(input=problem, instruction="")
review = await self.review(problem=problem, solution=solution['response'])
if not review['review_result']:
    solution = await self.revise(problem=problem, solution=solution['response'], feedback=review['feedback'])
    return solution['solution']{COST}
{RETURN}""",
        "Custom -> Review ? Revise : done",
    ),
    "both branches": (
        f"""solution = await self.custom(input=problem, instruction="")
test = await self.test(problem=problem, solution=solution['response'], entry_point='f')
if test['result']:
    return test['solution']{COST}
else:
    better = await self.custom(input=f"{{problem}} {{test['solution']}}", instruction="")
    return better['response']{COST}""",
        "Custom -> Test ? Custom : done",
    ),
    "after the condition": (
        f"""solution = await self.custom(input=problem, instruction="")
review = await self.review(problem=problem, solution=solution['response'])
if review['review_result']:
    pass
else:
    solution = await self.revise(problem=problem, solution=solution['response'], feedback=review['feedback'])
solution = await self.format(problem=problem, solution=solution['response'])
{RETURN}""",
        "Custom -> Review ? (Revise -> Format) : Format",
    ),
    "unused": (
        f"{CUSTOM.format(repr(''))}\nreview = await self.review(problem=problem, solution=solution['response'])\n{RETURN}",
        "Custom",
    ),
    "used twice": (
        f"""first = await self.custom(input=problem, instruction="")
second = await self.programmer(problem=problem, analysis=first['response'])
third = await self.answer_generate(input=problem)
fourth = await self.revise(problem=problem, solution=first['response'], feedback='')
solution = await self.sc_ensemble(solutions=[second['output'], third['answer'], fourth['solution']], problem=problem)
{RETURN}""",
        "a result of an operator is used twice",
    ),
    "guarded return": (
        f"""draft = await self.custom(input=problem, instruction="")
program = await self.programmer(problem=problem, analysis=draft['response'])
if program['output'].strip() and 'Error' not in program['output']:
    return program['output']{COST}
return draft['response']{COST}""",
        "Custom -> Programmer",
    ),
    "guarded result": (
        f"""draft = await self.custom(input=problem, instruction="")
program = await self.programmer(problem=problem, analysis=draft['response'])
answer = program.get('output') or draft['response']
return answer if answer else draft['response']{COST}""",
        "Custom -> Programmer",
    ),
    "first of two": (
        f"""draft = await self.custom(input=problem, instruction="")
program = await self.programmer(problem=problem, analysis=draft['response'])
output = program['output']
final = output if output != 'None' else draft['response']
return final{COST}""",
        "Custom -> Programmer",
    ),
    "repair of a program": (
        f"""draft = await self.custom(input=problem, instruction="")
program = await self.programmer(problem=problem, analysis=draft['response'])
if program['output'] == 'Error':
    solution = await self.custom(input=problem + f"\\nDraft: {{draft['response']}}", instruction=prompt_custom.SOLVE)
    {RETURN}
return program['output']{COST}""",
        'Custom -> Programmer ? Custom(instruction="Solve it.\\nThen check.") : done',
    ),
    "return from a loop": (
        f"""solution = await self.custom_code_generate(problem=problem, entry_point='f', instruction="")
code = solution['response']
for attempt in range(1, 3):
    test = await self.test(problem=problem, solution=code, entry_point='f')
    passed: bool = test['result']
    print(f"attempt {{attempt}}: {{passed}}")
    if passed is True:
        return test['solution']{COST}
    better = await self.custom(input=f"Problem: {{problem}}\\nCode: {{test['solution']}}", instruction="")
    code = better['response']
last = await self.test(problem=problem, solution=code, entry_point='f')
return last['solution']{COST}""",
        "CustomCodeGenerate -> Test ? (Custom -> Test ? (Custom -> Test) : done) : done",
    ),
    "break": (
        f"""solution = await self.custom_code_generate(problem=problem, entry_point='f', instruction="")
code, count = solution['response'], 0
while count < 2:
    count += 1
    test = await self.test(problem=problem, solution=code, entry_point='f')
    code = test['solution']
    if not test['result']:
        continue
    break
return code{COST}""",
        "CustomCodeGenerate -> Test ? Test : done",
    ),
    "lists": (
        f"""first, second = await asyncio.gather(self.custom(input=problem, instruction=""), self.answer_generate(input=problem))
solutions = [first['response']] + [second['answer']]
more = [await self.programmer(problem=problem, analysis='None') for _ in range(2)]
solutions = [*solutions, more[0]['output']]
solutions.extend([more[1]['output']])
if len(solutions) > 3:
    solutions = solutions[:3]
solution = await self.sc_ensemble(solutions=solutions, problem=problem)
{RETURN}""",
        "[Custom, AnswerGenerate, Programmer] -> ScEnsemble",
    ),
    "instructions in a loop": (
        f"""solutions = []
for index, how in enumerate(["Compute.", "Guess."], start=1):
    result = await self.custom(input=problem, instruction=f"{{index}}. " + how)
    solutions.append(result['response'])
solution = await self.sc_ensemble(solutions=solutions, problem=problem)
{RETURN}""",
        '[Custom(instruction="1. Compute."), Custom(instruction="2. Guess.")] -> ScEnsemble',
    ),
    "ensemble of one": (
        f"""solution = await self.custom(input=problem, instruction="")
solution = await self.sc_ensemble(solutions=[solution['response']], problem=problem)
{RETURN}""",
        "Custom",
    ),
    "result in the instruction": (
        f"""draft = await self.custom(input=problem, instruction="")
solution = await self.custom(input=problem, instruction=f"Shorten this: {{draft['response']}}")
{RETURN}""",
        'Custom -> Custom(instruction="Shorten this:")',
    ),
    "text in the input": (
        f"solution = await self.custom(input=problem + ' Say five.', instruction=prompt_custom.SOLVE)\n{RETURN}",
        'Custom(instruction="Say five.\\nSolve it.\\nThen check.")',
    ),
    "local operator": (
        f"""programmer = operator.Programmer(self.llm)
solution = await programmer(problem=problem, analysis='None')
return solution['output']{COST}""",
        "Programmer",
    ),
    "exception handler": (
        f"""solution = await self.custom(input=problem, instruction="")
try:
    solution = await self.programmer(problem=problem, analysis=solution['response'])
except Exception as error:
    logger.warning(error)
return solution['output']{COST}""",
        "Custom -> Programmer",
    ),
    "positional arguments": (
        f"solution = await self.custom(problem, prompt_custom.SOLVE)\n{RETURN}",
        'Custom(instruction="Solve it.\\nThen check.")',
    ),
    "operator on each element of a list": (
        f"""drafts = []
for _ in range(2):
    draft = await self.custom(input=problem, instruction="")
    drafts.append(draft)
better = [(await self.revise(problem=problem, solution=draft['response'], feedback=''))['solution'] for draft in drafts]
solution = await self.sc_ensemble(solutions=better, problem=problem)
{RETURN}""",
        "[Custom -> Revise, Custom -> Revise] -> ScEnsemble",
    ),
    "loop with else": (
        f"""for _ in range(2):
    solution = await self.custom(input=problem, instruction="")
else:
    solution = await self.programmer(problem=problem, analysis='')
return solution['output']{COST}""",
        "Programmer",
    ),
    "element of a list": (
        f"""solutions = [await self.custom(input=problem, instruction=""), await self.programmer(problem=problem)]
solution = solutions[0]
{RETURN}""",
        "Custom",
    ),
    "while": (f"while True:\n    {CUSTOM.format(repr(''))}\n{RETURN}", "a loop of more than 5 iterations"),
    "many": (ENSEMBLE.format(9), "a loop of 9 iterations"),
    "no operator": (f"solution = await self.extract(problem=problem)\n{RETURN}", "the unknown operator Extract"),
    "condition on a text": (
        f"{CUSTOM.format(repr(''))}\nif 'error' in solution['response']:\n    pass\n{RETURN}",
        "a condition that is not the verdict of an operator",
    ),
    "computed instruction": (
        f"{CUSTOM.format('problem')}\n{RETURN}",
        "an instruction that is not a constant",
    ),
    "draft beside its successor": (
        f"""draft = await self.custom(input=problem, instruction="")
second = await self.programmer(problem=problem, analysis=draft['response'])
solution = await self.sc_ensemble(solutions=[draft['response'], second['output']], problem=problem)
{RETURN}""",
        "an ensemble of a result and its own successor",
    ),
    "separate calls": (
        f"""first = await self.custom(input=problem, instruction="")
second = await self.custom(input=problem, instruction="")
solution = await self.custom(input=first['response'] + second['response'], instruction="")
{RETURN}""",
        "results of separate calls in one text",
    ),
    "review": (
        f"""draft = await self.custom(input=problem, instruction="")
solution = await self.review(problem=problem, solution=draft['response'])
return solution['feedback']{COST}""",
        "a review is returned instead of a solution",
    ),
}
# Graphs that resemble a workflow of the language but mean something else.
MISLEADING: dict[str, str] = {
    "analysis that instructs": f"""solution = await self.programmer(problem=problem, analysis=prompt_custom.SOLVE)
return solution['output']{COST}""",
    "instruction by the executor": f"""draft = await self.custom(input=problem, instruction="")
solution = await self.custom(input=problem, instruction=draft['response'])
{RETURN}""",
    "text in the input of an operator that takes no instruction": f"""solution = await self.answer_generate(input=problem + ' Say five.')
{RETURN}""",
    "attempt that knows nothing of the one before": f"""for _ in range(2):
    solution = await self.custom_code_generate(problem=problem, entry_point='f', instruction="")
    test = await self.test(problem=problem, solution=solution['response'], entry_point='f')
    if test['result']:
        break
return test['solution']{COST}""",
    "program that did not run goes on": f"""draft = await self.custom(input=problem, instruction="")
program = await self.programmer(problem=problem, analysis=draft['response'])
if program['output'] == 'None':
    program = await self.custom(input=problem + program['output'], instruction="")
    return program['response']{COST}
return program['output']{COST}""",
    "draft if the program runs": f"""draft = await self.custom(input=problem, instruction="")
program = await self.programmer(problem=problem, analysis=draft['response'])
if program['output']:
    return draft['response']{COST}
return program['output']{COST}""",
    "text instead of a result": f"""solution = await self.custom(input=problem, instruction="")
test = await self.test(problem=problem, solution=solution['response'], entry_point='f')
if test['result']:
    return test['solution']{COST}
return "no solution"{COST}""",
    "handler that calls an operator": f"""try:
    solution = await self.custom(input=problem, instruction="")
except Exception:
    solution = await self.programmer(problem=problem, analysis='')
{RETURN}""",
    "condition on a parameter": f"""if problem:
    solution = await self.custom(input=problem, instruction="")
else:
    solution = await self.programmer(problem=problem, analysis='')
{RETURN}""",
    "two verdicts": f"""solution = await self.custom(input=problem, instruction="")
first = await self.test(problem=problem, solution=solution['response'], entry_point='f')
second = await self.test(problem=problem, solution=first['solution'], entry_point='f')
if first['result'] and second['result']:
    return second['solution']{COST}
better = await self.custom(input=problem + second['solution'], instruction="")
return better['response']{COST}""",
    "direct call of the model": f"""draft = await self.custom(input=problem, instruction="")
solution = await self.llm.call_with_format(f"Correct this: {{draft['response']}}", None)
return solution{COST}""",
    "condition on feedback": f"""solution = await self.custom(input=problem, instruction="")
review = await self.review(problem=problem, solution=solution['response'])
if review['feedback']:
    solution = await self.revise(problem=problem, solution=solution['response'], feedback=review['feedback'])
    return solution['solution']{COST}
{RETURN}""",
    "return of the solution before the test": f"""solution = await self.custom(input=problem, instruction="")
test = await self.test(problem=problem, solution=solution['response'], entry_point='f')
if test['result']:
    return test['solution']{COST}
{RETURN}""",
    "start shared by two of three": f"""draft = await self.custom(input=problem, instruction="")
extra = await self.custom(input=problem, instruction="")
first = await self.programmer(problem=problem, analysis=draft['response'])
second = await self.programmer(problem=problem, analysis=draft['response'])
third = await self.answer_generate(input=problem)
solution = await self.sc_ensemble(solutions=[first['output'], second['output'], third['answer']], problem=problem)
{RETURN}""",
    "review of another solution": f"""first = await self.custom(input=problem, instruction="")
second = await self.programmer(problem=problem, analysis=first['response'])
review = await self.review(problem=problem, solution=second['output'])
solution = await self.revise(problem=problem, solution=first['response'], feedback=review['feedback'])
{RETURN}""",
    "dependence hidden in a format string": f"""draft = await self.custom(input=problem, instruction="")
text = "{{a}} {{b}}".format(a=problem, b=draft['response'])
second = await self.custom(input=text, instruction="")
solution = await self.sc_ensemble(solutions=[draft['response'], second['response']], problem=problem)
{RETURN}""",
}
PROMPTS = 'SOLVE = """Solve it.\nThen check."""\nOTHER = 3\n'

# Number, parent, body and validation scores of rounds 2 to 20. Round 1 is the root.
ROUNDS: list[tuple[int, int, str, list[float]]] = [
    (2, 1, "instructed", [0.6, 0.7]),
    (3, 2, "ensemble", [0.8, 0.9]),
    (4, 2, "gather", [0.5, 0.5]),
    (5, 3, "two kinds", [0.7, 0.8]),
    (6, 3, "analysis", [0.9, 0.9]),
    (7, 3, "while", [0.4, 0.4]),
    (8, 6, "shared start", [0.95, 0.85]),
    (9, 6, "in one text", [0.9, 0.9]),
    (10, 1, "condition", [0.7, 0.7]),
    (11, 10, "both branches", [0.65, 0.75]),
    (12, 10, "after the condition", [0.6, 0.6]),
    (13, 8, "unused", [0.8, 0.8]),
    (14, 3, "many", [0.85, 0.85]),
    (15, 3, "no operator", [0.1, 0.1]),
    (16, 3, "condition on a text", [0.6, 0.6]),
    # The same change of the same parent as round 6, and a round whose parent is missing.
    (17, 3, "analysis", [0.9, 0.9]),
    (18, 99, "custom", [0.5, 0.5]),
    (19, 8, "computed instruction", [0.5, 0.5]),
    (20, 8, "condition", [0.99, 0.97]),
]


def graph(number: int, body: str) -> str:
    """Content of a `graph.py`."""
    operators = "\n".join(f"        self.{name} = operator.{kind}(self.llm)" for name, kind in OPERATORS.items())
    lines = "\n".join(f"        {line}" for line in body.splitlines())
    return HEAD.format(number=number, operators=operators, body=lines)


def write_workspace(folder: Path) -> Path:
    """Write the workspace to a folder, and return the folder."""
    workflows = folder / "GSM8K" / "workflows"
    results: list[dict[str, Any]] = []
    scores = {1: [0.5, 0.6]} | {number: passes for number, _, _, passes in ROUNDS}
    for number, parent, name, passes in [(1, 0, "custom", scores[1]), *ROUNDS]:
        path = workflows / f"round_{number}"
        path.mkdir(parents=True)
        (path / "graph.py").write_text(graph(number, BODIES[name][0]))
        (path / "prompt.py").write_text(PROMPTS)
        for order, score in enumerate(passes):
            results.append({"round": number, "score": score, "avg_cost": 0.001, "total_cost": 0.1, "time": "2024"})
            table = "inputs,prediction,expected_output,score,cost\n"
            (path / f"{score:.5f}_20241016_00000{order}.csv").write_text(table)
        log = [{"question": f"q{number}", "right_answer": "7", "model_output": "It is 8", "extracted_output": "8"}]
        (path / "log.json").write_text(json.dumps(log))
        if number > 1:
            # `before` and `after` come from a single validation pass; the mean over all passes takes precedence.
            before = scores.get(parent, [0.0])[0]
            experience = {"father node": parent, "modification": f"Use {name}.", "before": before, "after": passes[0]}
            (path / "experience.json").write_text(json.dumps(experience | {"succeed": passes[0] > before}))
    (workflows / "results.json").write_text(json.dumps(results))
    processed = {
        "1": {"score": 0.55, "success": {"2": {"modification": "Use instructed.", "score": 0.65}}, "failure": {}}
    }
    (workflows / "processed_experience.json").write_text(json.dumps(processed))
    return folder
