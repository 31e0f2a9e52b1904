"""Parse the command line, and run `montessori run`, `evaluate`, `refresh`, `status`, `store`, `score` and the others.

Exit codes: 0 after success, 2 for wrong input (one sentence, nothing started), 1 for any other failure.
"""

import argparse
import os
import sys
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from flows.commands import champion, evaluate, reports, run, status, study
from flows.commands import store as store_command
from flows.commands.options import add_settings, settings_of
from montessori.errors import InputError, MontessoriError
from montessori.extras import require
from montessori.settings import files as config_file
from montessori.settings import shipped

ESTIMATE_EXAMPLES = """examples:
  montessori estimate llama3-8b                                  tokens, hours and bytes of the paper's run
  montessori estimate tiny --set training_size=20000             a larger run, from the cost of small ones
  montessori estimate my.yaml --set generation.engine=openai --set generation.openai.model=gpt-4o      with its price
"""
SCORE_EXAMPLES = """examples:
  montessori score --student models/student --optimizer-state models/student-state \\
                   --data points.jsonl --reference reference.jsonl --out scores.jsonl
  montessori score … --optimizer-state checkpoint-500      the checkpoint of a transformers Trainer
  montessori score … --warm-up 1000               no state: fine-tune on 1,000 of the points first
  montessori score … --estimator exact --limit 64     the exact definition; slow, to check the others

A point's influence is how much one optimiser step on it lowers the student's loss on the reference set. Rows have an
instruction and a response, or chat messages, in any common form (docs/reference/models-and-data.md). After a kill, the
same command continues from the finished shards.
"""
PUSH_EXAMPLES = """examples:
  montessori push store/runs/tiny-1a2b3c4d me/tiny-data                       the last iteration's training set, private
  montessori push tiny-1a2b3c4d me/tiny-data --system Self-Instruct --public  another system's, public
  montessori push tiny-1a2b3c4d me/tiny-teacher --what teacher                the tuned teacher
  montessori push tiny-1a2b3c4d me/tiny-data --to look                        the files and the card, nothing uploaded

The token comes from HF_TOKEN or `hf auth login`. The card names no path, user or host of this machine.
"""
DEPLOY_EXAMPLES = """examples:
  export PREFECT_API_URL=http://127.0.0.1:4200/api
  montessori deploy                                                    workers that are processes of this machine
  montessori deploy --type docker --store s3://bucket/montessori --network montessori --gpus 1 --at-once 4
  montessori deploy --type kubernetes --store s3://bucket/montessori --image registry/montessori-orchestrator:1 \\
                    --stage-image registry/montessori-worker-gpu:1 --gpus 1 --memory 64Gi
  montessori deploy --nightly '0 2 * * *' --notify slack-webhook/team

A repeated command changes only what its options name. Then start a worker:
  prefect worker start --pool montessori
"""
AddParser = Callable[..., argparse.ArgumentParser]


def main(arguments: list[str] | None = None) -> int:
    """Run the command in `arguments` (default: the process's), and return the exit code."""
    options = _parser().parse_args(arguments)
    if options.command is None:
        _parser().print_help(sys.stderr)
        return 2
    _quiet_prefect()
    try:
        return COMMANDS[options.command](options)
    except InputError as error:
        print(f"montessori: {error}", file=sys.stderr)
        return 2
    except MontessoriError as error:
        print(f"montessori: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # the reader of a pipe, such as `head`, has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print("montessori: stopped; the same command goes on from here", file=sys.stderr)
        return 1


def _quiet_prefect() -> None:
    """Turn off Prefect's log lines and telemetry. Prefect reads the environment at import."""
    for name, value in {
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
        "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
        "PREFECT_INTERNAL_LOGGING_LEVEL": "CRITICAL",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",  # 20 is too few on a busy laptop
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "PYTHONSAFEPATH": "1",  # for processes of Prefect: the working folder must not hide our modules
    }.items():
        os.environ.setdefault(name, value)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="montessori",
        description="Make training data fitted to the student model that learns from it.",
        epilog=run.EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {version('montessori')}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    add = partial(commands.add_parser, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    run.add_parsers(add)
    estimate = add(
        "estimate",
        help="estimate the tokens, hours, bytes and price of a run",
        description="Estimate a run from its settings and from the cost of past runs in the store. Starts nothing.",
        epilog=ESTIMATE_EXAMPLES,
    )
    estimate.add_argument("config", metavar="CONFIG", help="settings or a study, by name or as a YAML file")
    add_settings(estimate, "a setting, for example dpo.beta=0.2")
    estimate.add_argument("--iterations", type=int, metavar="N", help="short for --set iterations=N")
    status.add_parser(add)
    reports.add_parser(add)
    store_command.add_parser(add)
    champion.add_parser(add)
    evaluate.add_parser(add)
    study.add_parser(add)
    _add_score(add)
    _add_push(add)
    _add_deploy(add)
    return parser


def _add_score(add: AddParser) -> None:
    score = add(
        "score",
        help="score the influence of your own points on a student",
        description="Score each point of a data set by its influence on a student's loss on a reference set.",
        epilog=SCORE_EXAMPLES,
        argument_default=argparse.SUPPRESS,  # defaults are in montessori.settings.score
    )

    def option(name: str, metavar: str | None, help: str, required: bool = False) -> None:
        score.add_argument(f"--{name}", metavar=metavar, help=help, required=required)

    option("student", "MODEL", "a folder with safetensors and a tokenizer, or a hub name", required=True)
    option("data", "DATA", "the points: a file, a folder of files, or a hub name", required=True)
    option("reference", "DATA", "the reference set, in the same form", required=True)
    option(
        "out", "FILE", "file for the scores: FILE.jsonl or FILE.parquet; summary and figure go beside it", required=True
    )
    option(
        "optimizer-state",
        "DIR",
        "AdamW's state: a folder of OptimizerState.save, a Trainer's checkpoint, or accelerate's save_state",
    )
    option("optimizer", "NAME", "adamw (default), or sgd for plain gradient descent without a state")
    option("warm-up", "N", "without a state: fine-tune on N random points first (default: a quarter, 64 to 1,024)")
    option("learning-rate", "RATE", "learning rate of the step (default: the state's, or 5e-6)")
    option("estimator", "NAME", "taylor (default), exact or directional")
    option("limit", "N", "score the first N points only")
    option("config", "NAME", "configuration of a hub dataset of points, for example main")
    option("split", "NAME", "split of a hub dataset or a folder of points (default: train)")
    score.add_argument(
        "--columns",
        metavar="PART=NAME",
        action="append",
        help="your names of the points' columns, as in instruction=frage,response=antwort",
    )
    option("reference-config", "NAME", "configuration of the reference set")
    option("reference-split", "NAME", "split of the reference set (default: train)")
    score.add_argument(
        "--reference-columns", metavar="PART=NAME", action="append", help="your names of the reference set's columns"
    )
    option("max-length", "TOKENS", "cut longer points (default: 1024)")
    option("chat-template", "FILE", "Jinja chat template (default: the tokenizer's own)")
    option("chat-template-kwargs", "JSON", "variables of the chat template, as '{\"enable_thinking\": true}'")
    option("chat-date", "DATE", "date for a template that shows today's (default: 2024-07-26)")
    option("dtype", "DTYPE", "dtype of the student: float32 or bfloat16 (default: bfloat16 on a GPU, float32 on a CPU)")
    option("state-dtype", "DTYPE", "dtype of moments and reference gradient (default: float32)")
    option("exact-dtype", "DTYPE", "dtype of exact's step; bfloat16 as in the original, whose noise is measured")
    option("token-budget", "TOKENS", "padded tokens in a batch (default: 2048)")
    option("shards", "N", "number of shards (default: 256 points each, exact 16; on a GPU 8 times as many)")
    option("seed", "N", "random seed of the warm-up (default: 0)")
    option("store", "DIR", "folder of the artifacts (default: store)")
    option("threads", "N", "CPU threads for a shard (default: 1)")
    option("at-once", "N", "shards at once (default: the GPUs, or the cores divided by --threads)")
    score.add_argument("--trust-remote-code", action="store_true", help="run the model code of the student")


def _add_push(add: AddParser) -> None:
    push = add(
        "push",
        help="upload the data or a model of a run to the Hugging Face hub",
        description="Upload a run's data or model to the Hugging Face hub, with a card on its origin.",
        epilog=PUSH_EXAMPLES,
    )
    push.add_argument("run", metavar="RUN", help="a run's folder, as `montessori run` prints it, or its name")
    push.add_argument("repo", metavar="REPO", help="user/name on the hub; created if it does not exist")
    push.add_argument("--what", choices=["data", "teacher", "student"], default="data", help="(default: data)")
    push.add_argument("--system", metavar="NAME", help="the system, by its name in the report (default: the last)")
    push.add_argument("--public", action="store_true", help="create a public repository (default: private)")
    push.add_argument("--license", metavar="ID", help="a license of the hub, for example apache-2.0 (default: none)")
    push.add_argument("--to", metavar="FOLDER", help="write the files to FOLDER, and upload nothing")
    push.add_argument("--store", metavar="DIR", default="store", help="the store with RUN (default: store)")


def _add_deploy(add: AddParser) -> None:
    deploy = add(
        "deploy",
        help="register the work pool, deployments and automations on a Prefect server",
        description="Register Montessori on the Prefect server at PREFECT_API_URL, to run it from the UI on workers.",
        epilog=DEPLOY_EXAMPLES,
        argument_default=argparse.SUPPRESS,  # defaults are in flows.deployment.deploy.DeployOptions
    )

    def option(name: str, metavar: str, help: str, **more: Any) -> None:
        deploy.add_argument(f"--{name}", metavar=metavar, help=help, **more)

    deploy.add_argument(
        "--type",
        choices=["process", "docker", "kubernetes"],
        dest="kind",
        help="the kind of worker (default: process)",
    )
    option("pool", "NAME", "name of the work pool (default: montessori)")
    option(
        "at-once",
        "N",
        "tasks at once in the pool, usually its GPUs (default: as many as this machine can run)",
        type=int,
    )
    option("gpus", "N", "GPUs of a task in a container (default: 0)", type=int)
    option("image", "IMAGE", "image of a run (default: montessori-orchestrator:local)")
    option("stage-image", "IMAGE", "image of a task (default: montessori-worker-gpu:local, or -cpu where --gpus is 0)")
    option("network", "NAME", "Docker network with the Prefect server and the store")
    option("memory", "SIZE", "memory of a task in a container, for example 16g (Docker) or 16Gi (Kubernetes)")
    option("store", "URI", "store of the runs (default: as in their settings)")
    option("config", "NAME", "initial settings in the UI's form (default: tiny)")
    option("nightly", "CRON", "schedule of the teacher's refresh in UTC, or off (default: off)")
    option(
        "notify",
        "TYPE/NAME",
        "block to notify of failures, like slack-webhook/team, or off (default: off)",
    )


def _deploy(options: argparse.Namespace) -> int:
    require("flows", purpose="montessori deploy")
    from flows.deployment.deploy import deploy

    print(*deploy(**{name: value for name, value in vars(options).items() if name != "command"}), sep="\n")
    return 0


def _push(options: argparse.Namespace) -> int:
    from montessori import publishing

    publishing.check_repo_name(options.repo)
    store, run = publishing.find_run(options.run, options.store)
    system = publishing.choose_system(run, options.what, options.system)
    token = publishing.read_token() if options.to is None else ""
    files = publishing.build_files(
        store, run, what=options.what, system=system, repo=options.repo, license=options.license
    )
    if options.to is None:
        place = publishing.upload(files, what=options.what, repo=options.repo, token=token, is_public=options.public)
    else:
        place = publishing.write_files(files, Path(options.to))
    print(f"{options.what} of {system}, {len(files)} files\n{place}")
    return 0


def _score(options: argparse.Namespace) -> int:
    from pydantic import ValidationError

    from montessori.settings.score import Scoring

    try:
        scoring = Scoring.model_validate({k: v for k, v in vars(options).items() if k != "command"})
    except ValidationError as error:
        field = "".join(map(str, error.errors()[0]["loc"]))
        sentence = config_file.sentence(error)
        raise InputError(f"--{field.replace('_', '-')}{sentence.removeprefix(field)}" if field else sentence) from None
    from rich.console import Console

    from flows.commands.score import score

    score(scoring, Console())
    return 0


def _estimate(options: argparse.Namespace) -> int:
    only_a_study = options.config in shipped.names("study") and options.config not in shipped.names("settings")
    options.config = str(shipped.path_of(options.config, "study" if only_a_study else "settings", "CONFIG"))
    if config_file.is_study(config_file.read(options.config)):
        if options.iterations is not None:
            raise InputError("--iterations: a study has it in each system; use --set systems.NAME.iterations=N")
        return study.estimate(options)
    settings = settings_of(options)
    from rich.console import Console

    from flows.commands import terminal
    from flows.requests.run import plan
    from montessori.artifacts import open_store
    from tasks.runtime import engines
    from tasks.runtime.estimate import estimate

    settings = engines.resolve(settings)
    store = open_store(settings.store)
    store.check_readable()
    requests = plan(settings)[0].requests
    console = Console()
    with console.status("reading the seeds and the rates of past runs"):
        lines, assumed = estimate(settings, requests, store)
    terminal.show_estimate(console, lines, assumed, settings.budget)
    return 0


COMMANDS = {
    "run": run.run,
    "refresh": run.refresh,
    "estimate": _estimate,
    "status": status.status,
    "reports": reports.reports,
    "store": store_command.store,
    "champion": champion.champion,
    "score": _score,
    "evaluate": evaluate.evaluate,
    "study": study.study,
    "push": _push,
    "deploy": _deploy,
}

if __name__ == "__main__":
    sys.exit(main())
