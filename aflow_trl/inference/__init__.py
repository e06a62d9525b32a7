"""inference"""

from .answering import Answered, answer, answer_file, print_answer, read_questions, vote, workflows_of

__all__ = ["Answered", "answer", "answer_file", "print_answer", "read_questions", "vote", "workflows_of"]
