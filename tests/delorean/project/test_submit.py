from pathlib import Path

import delorean
from delorean.project.config import Project
from delorean.project.submit import Submission


def test_the_command_starts_the_program_of_this_package():
    command = Submission(Project(), ("generate", "home.toml")).shown
    main = Path(delorean.__file__).with_name("__main__.py")
    assert main.is_file()
    assert command[-3:] == [str(main), "generate", "home.toml"]
