"""Evaluation of a bundle on labelled images: numbers, figures and one page that says what they mean."""
