"""What the handler uses. Add modules and packages beside this one as you need them."""


def format_message(name: str) -> str:
    return f"Hello, {name}!"
