"""What the lists of planted bugs are written with."""


def of(*modules):
    """The modules that a scenario is made of, beside recovery.py and disk.py; its bugs are changes of their texts."""
    def mark(scenario):
        scenario.modules = modules
        return scenario
    return mark


def then(*statements, indent):
    return f"\n{' ' * indent}".join(statements)
