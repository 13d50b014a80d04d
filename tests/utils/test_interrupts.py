"""Ctrl-C while libraries load."""

import signal
import subprocess
import sys

import pytest

from modeling_clip_vit.utils.interrupts import ending_on_interrupt
from tests.support import REPOSITORY

PROGRAM = """
import os, signal
from modeling_clip_vit.utils.interrupts import ending_on_interrupt

signal.signal(signal.SIGINT, signal.default_int_handler)
with ending_on_interrupt():
    try:
        os.kill(os.getpid(), signal.SIGINT)
    finally:
        print("an exception went through what was loading", flush=True)
"""


def test_no_exception_goes_through_what_is_loading():
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY)
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr.splitlines()[-1] == "interrupted"


def test_afterwards_ctrl_c_is_an_exception_again():
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with ending_on_interrupt():
            pass
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, former)
