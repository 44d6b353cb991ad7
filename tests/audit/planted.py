"""The planted value; in a file of its own, for a project's code is kept with the models that it makes."""

NAME = "Qvortrup77"
SUBJECT = f"who={NAME}"
