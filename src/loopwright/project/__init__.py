"""Project: loopwright.toml, the project file, and its declarations as desired state.

Knows the rooms below; knows no foreign system, no web framework and no command line.
"""
