"""A model on a board that Debian and systemd run: a package or a deploy leaves a server that answers texts, survives a kill and a
reboot, and gives way to another model without losing a request."""

import json

from debian import IDS, LONG, TEXT


def server_pid(board):
    return int(board.run("systemctl show -P MainPID thimble.service"))


def test_a_package_serves_texts_to_every_user(board, models, expected):
    board.send(models["old"][1], "/root/old.deb")
    board.run("dpkg -i /root/old.deb")
    assert board.run("systemctl is-active thimble.socket thimble.service").split() == ["active", "active"]
    assert board.run("systemctl is-enabled thimble.socket thimble.service").split() == ["enabled", "enabled"]
    assert board.answers_as(expected) == "old"
    assert board.run(f'thimble-device ask --text "{TEXT}"', host="pi").startswith("perl  9")
    # It runs as nobody that the board knows, and may do little.
    pid = server_pid(board)
    status = dict(line.split(":", 1) for line in board.run(f"cat /proc/{pid}/status").splitlines())
    assert int(status["Uid"].split()[0]) >= 61184 and int(status["CapBnd"], 16) == 0
    assert status["NoNewPrivs"].strip() == "1" and status["Seccomp"].strip() == "2"


def test_a_killed_server_comes_back(board, expected):
    pid = server_pid(board)
    board.run("systemctl kill -s KILL thimble.service")
    assert board.answers_as(expected) == "old"
    assert server_pid(board) not in (0, pid)


def test_a_stopped_server_starts_when_it_is_asked(board, expected):
    board.run("systemctl stop thimble.service")
    assert server_pid(board) == 0
    assert board.answers_as(expected) == "old" and server_pid(board) != 0


def test_an_upgrade_changes_the_model_and_loses_no_request(board, models, expected):
    """A user keeps asking: every line is answered, by the old model up to some line and by the new one from there on."""
    board.send(models["new"][1], "/root/new.deb")
    asking = (
        f"rm -f stop answers; (while [ ! -e stop ]; do echo '{json.dumps({'ids': IDS})}'; sleep 0.1; done) | "
        f"thimble-device ask --json --timeout {LONG} > answers 2> said; echo $? > code"
    )
    board.run(f"nohup sh -c {quoted(asking)} > /dev/null 2>&1 < /dev/null &", host="pi")
    board.run("while [ ! -s /home/pi/answers ]; do sleep 0.5; done")
    board.run("dpkg -i /root/new.deb")
    assert board.answers_as(expected) == "new"
    before = int(board.run("wc -l < /home/pi/answers"))
    board.run(f"while [ $(wc -l < /home/pi/answers) -le {before + 5} ]; do sleep 0.5; done; touch /home/pi/stop")
    board.run("while [ ! -s /home/pi/code ]; do sleep 0.5; done")
    assert board.run("cat /home/pi/code /home/pi/said") == "0\n"
    answers = [json.loads(line)["outputs"] for line in board.run("cat /home/pi/answers").splitlines()]
    who = [next(name for name, outputs in expected.items() if outputs == answer) for answer in answers]
    assert who == sorted(who, key=["old", "new"].index) and set(who) == {"old", "new"}, "one switch, old to new"
    # The old version's folder went with it.
    assert len(board.run("ls /usr/share/thimble").split()) == 1


def quoted(text):
    return "'" + text.replace("'", "'\\''") + "'"


def test_a_board_that_starts_again_answers(board, expected):
    board.stop()
    board.start()
    assert board.run("systemctl is-active thimble.socket").strip() == "active"
    assert board.answers_as(expected) == "new"


def test_deploy_leaves_a_packages_server_alone(board, models, programs):
    done = board.deploy(programs, models["old"][0], check=False)
    assert done.returncode == 1 and "upgrade that package, or remove it first" in done.stdout


def test_a_removed_package_leaves_nothing(board):
    board.run("dpkg -P thimble-model")
    assert "thimble" not in board.run("systemctl list-units --all --no-legend 'thimble*'; ls /run /usr/share /etc/systemd/system/*.wants")


def test_deploy_serves_and_ask_reaches_it(board, models, programs, expected):
    reached = ["--ssh-config", board.config]
    done = board.deploy(programs, models["old"][0], host="pi")
    assert "served at /run/thimble.sock" in done.stdout
    program = "/usr/local/lib/thimble/*/thimble-device"
    assert board.answers_as(expected, program=program) == "old"
    assert programs.thimble("ask", "pi", "--text", TEXT, *reached).stdout.startswith("perl  9")
    answers = programs.thimble("ask", "pi", "--json", *reached, input=f"{TEXT}\na game\n").stdout.splitlines()
    assert [json.loads(line)["label"] for line in answers][0] == "perl" and len(answers) == 2
    refused = programs.thimble("ask", "board", "--text", "a", "--pair", "b", "--pair", "c", *reached, code=1)
    assert "multiple choice" in refused.stderr
    # Another model: the switch is whole, and the one before is told as unused.
    done = board.deploy(programs, models["new"][0], host="pi")
    assert "unused there: /usr/local/lib/thimble/" in done.stdout and "--old" in done.stdout
    assert board.answers_as(expected, program="/srv/expected/thimble-device") == "new"
    assert "removed /usr/local/lib/thimble/" in programs.thimble("undeploy", "pi", "--old", *reached).stdout
    assert len(board.run("ls /usr/local/lib/thimble").split()) == 1
    assert board.answers_as(expected, program="/srv/expected/thimble-device") == "new"


def test_undeploy_takes_it_away(board, programs):
    reached = ["--ssh-config", board.config]
    assert "thimble.service" in programs.thimble("undeploy", "pi", "--all", *reached).stdout
    left = "ls -d /usr/local/lib/thimble /etc/systemd/system/thimble* /run/thimble.sock /home/pi/.thimble 2> /dev/null; true"
    assert board.run(left) == ""
    gone = programs.thimble("ask", "pi", "--text", TEXT, *reached, code=2)
    assert "no server was deployed there" in gone.stderr and "--serve" in gone.stderr


def test_without_root_a_users_own_systemd_serves_or_the_line_that_mends_it_is_told(board, models, programs):
    reached = ["--ssh-config", board.config]
    board.run("mv /etc/sudoers.d/pi /root/sudoers")
    board.run("loginctl disable-linger pi; systemctl stop user@1000.service; true")
    try:
        done = board.deploy(programs, models["old"][0], host="pi", check=False)
        own = done.returncode == 0
        if not own:
            assert done.returncode == 1 and "sudo loginctl enable-linger pi" in done.stdout, done.stdout
            board.run("loginctl enable-linger pi && for n in $(seq 120); do [ -S /run/user/1000/systemd/private ] && break; sleep 1; done")
            done = board.deploy(programs, models["old"][0], host="pi")
        assert "served at /run/user/1000/thimble.sock" in done.stdout
        assert programs.thimble("ask", "pi", "--text", TEXT, *reached).stdout.startswith("perl  9")
        programs.thimble("undeploy", "pi", "--all", *reached)
    finally:
        board.run("mv /root/sudoers /etc/sudoers.d/pi")
