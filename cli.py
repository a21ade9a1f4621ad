"""The script for ``accelerate launch cli.py train ...``; the same as the ``hf-difflm`` command."""

from hf_difflm.commands import app

if __name__ == "__main__":
    app()
