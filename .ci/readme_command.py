"""Print the N-th command of README.md's "Two commands" section, so that CI runs what users read."""

import re
import sys
from pathlib import Path

readme = Path(__file__).resolve().parents[1] / "README.md"
section = readme.read_text().split("## Two commands", 1)[1].split("\n## ", 1)[0]
commands = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
print(commands[int(sys.argv[1]) - 1].strip())
