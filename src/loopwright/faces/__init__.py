"""The doors of loopwright: HTTP, command line, control process, replay. Holds no rule of the product."""
