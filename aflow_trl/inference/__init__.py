"""Inference: answering questions with workflows."""

from .answering import Answered, Question, answer_questions, majority, read_questions

__all__ = ["Answered", "Question", "answer_questions", "majority", "read_questions"]
