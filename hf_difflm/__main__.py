"""``python -m hf_difflm``: the same as the ``hf-difflm`` command."""

from .commands import app

if __name__ == "__main__":
    app()
