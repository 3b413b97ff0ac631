"""
The house rules about imports, as tests: layers point down, each foreign package has one owner,
heavy ones come late.
"""

import ast
import sys

import sources
from harness import ROOT as REPOSITORY
from sources import list_imports, parse

TESTS, ROOT = REPOSITORY / "tests", REPOSITORY / "urisk_nb"

# Lowest first. A module imports only from strictly lower layers; names on one line are strangers.
# ARCHITECTURE.md draws the same.
LAYERS = [
    {"errors", "address", "terminal_text", "env_file"},
    {"settings", "process_state", "arguments", "run_options", "embedded"},
    {"event_loop", "risk", "journal", "workers"},
    {"readers", "server"},
    {"llm", "render", "reading"},
    {"table", "recording", "scale"},
    {"session", "chat"},
    {"past_runs"},
    {"past_answers"},
    {"notebook", "service", "demo", "evaluate", "risk_command"},
    {"cli"},
    {"__init__", "__main__"},
]
# Inside a package, imports follow this order (later may import earlier).
INSIDE = {
    "embedded": ["weights", "gguf_header", "decision", "merge", "launcher"],
    "readers": [
        *("encodings", "source_text", "html_tables", "html_text", "pdf_text", "docx_text"),
        *("filing_cover", "filings", "file_content", "file_names", "documents"),
        *("csv_files", "files", "holdings", "columns", "number_text"),
        *("price_fields", "price_shapes", "price_files", "joined_prices", "prices"),
        *("news_values", "news_fields", "news", "family_file", "taxonomy_file"),
    ],
    "risk": [
        *("taxonomy", "values", "tickers", "episodes", "params", "packed_text", "inputs"),
        "formulas",
        "data_faults",
        "masking",
        *(
            "metrics",
            "market",
            "benchmark",
            "quant",
            "portfolio_metrics",
            "positions",
            "portfolio",
            "stress",
            "factors",
            "sentence_rules",
            "evidence",
            "changes",
            "families",
            "passages",
            "choice",
            "relevance",
            "calibration",
            "answer_text",
            "questions",
            "scoring",
            "selection",
            "task_bytes",
            "plan",
        ),
        *(
            "labeling",
            "overrides",
            "corrections",
            "judges",
            "unjudged",
            "ratings",
            "row_warnings",
            "rows",
        ),
        *("portfolio_frames", "evaluation"),
        "baselines",
    ],
    "server": [
        *("port", "runtime_dir", "memory_usage", "restart_policy", "liveness", "guardian"),
        *("engines", "leases", "checks", "model_server"),
    ],
    "llm": [
        *("messages", "dialects", "constrained_decoding", "resilience", "calls", "limiter"),
        *("tls", "refusals", "decompression"),
        "run_calls",
        *(
            "client",
            "retrying_client",
            "letters",
            "written_labels",
            "labels",
            "request_hash",
            "local_digest",
            "model_loader",
            "endpoint",
            "pool",
            "agreement",
            "answers",
            "setting_changes",
            "snapshot",
            "manager",
        ),
        *("model_session", "model_install"),
    ],
    "llm.dialects": ["dialect", "ollama", "openai", "systemone"],
    "journal": ["canonical", "place", "store", "writer"],
    "workers": ["cores", "worker", "pool"],
    "reading": ["jobs", "packed_cache", "file_cache", "selection_cache", "evidence_readers"],
    "recording": ["number_text", "overrides", "inputs", "answers", "judges", "recorder", "asked"],
    "render": [
        *("escaping", "text_layout", "markup", "data_view", "front_end", "board"),
        *("answer_markdown", "answer_view"),
        *("table_content", "portfolio_line", "table_changes", "table_html", "table_text"),
        *("figures", "risk_figures", "sections"),
        *("svg", "heatmap", "portfolio_content", "report_page"),
    ],
    "evaluate": ["labeled_files", "measurement", "comparison", "page", "results"],
    "table": [
        *(
            "targets",
            "record_rows",
            "exports",
            "portfolio_views",
            "portfolio_figures",
            "part_frame",
            "portfolio_text",
        ),
        *("frames", "charts", "records"),
        *("explanation", "explain", "sentence_pairs", "sides", "run_settings", "causes"),
        *(
            "portfolio_diff",
            "parts_diff",
            "table_diff",
            "diff",
            "workbook",
            "markdown",
            "parquet_files",
            "overriding",
            "files",
            "risk_table",
        ),
        "outputs",
    ],
    "chat": [
        *("options", "json_text", "field_language", "json_schemas", "class_schemas", "frames"),
        *("schemas", "token_budget", "bounded_repr", "cells", "attachments", "structured"),
        *("citations", "frame_summary"),
        *("table_summary", "summaries", "prompts", "conversation", "records"),
    ],
    "scale": [
        *(
            "thread_frames",
            "interrupts",
            "steps",
            "worker",
            "checks",
            "cluster_server",
            "jobs",
            "cluster",
        ),
        "reading",
    ],
    "service": [
        *("statuses", "schemas", "prometheus", "live_session", "streams", "routes", "guard"),
        *("app", "serving"),
    ],
    "notebook": [
        *(
            "nest",
            "time_axis",
            "latencies",
            "alerts",
            "svg",
            "panels",
            "call_panel",
        ),
        *("view", "actions", "inspector", "session_poller", "dashboard"),
        *("expressions", "magic_lines", "cell_text", "answer_display", "data_answer"),
        *("ask_request", "ask", "chat_command", "magics", "completion"),
    ],
}
FIRST_PARTY_ONLY = {"risk": {"errors", "terminal_text"}, "embedded": {"errors", "terminal_text"}}
ALONE = {"terminal_text"}  # imports nothing of ours
BESIDE = {"errors": {"terminal_text"}}  # every error shows itself as visible text
STDLIB_ONLY = {
    "errors",
    "terminal_text",
    "server.guardian",
    "embedded.weights",
    "embedded.gguf_header",
    "workers.worker",
}
NO_IO = {
    "risk": {
        *("anyio", "asyncio", "httpx", "os", "socket", "sqlite3", "subprocess", "threading"),
        *("time", "IPython"),
    }
}
ONE_OWNER = {
    "httpx": {"llm.client"},
    "jsonschema": {"chat.json_schemas"},
    "referencing": {"chat.json_schemas"},
    "subprocess": {"server.guardian", "server.leases", "embedded.weights", "workers.pool"},
    "xllamacpp": {"embedded.launcher"},
    "pypdf": {"readers.pdf_text"},
    "docx": {"readers.docx_text"},
    "gguf": {"embedded.merge"},
    "sklearn": {"risk.baselines"},
    "ipywidgets": {"notebook.inspector", "notebook.view"},
    "psutil": {"server.memory_usage", "render.front_end", "workers.cores"},
    "plotly": {"render.figures"},
    "markdown_it": {"render.answer_markdown"},
    "nh3": {"render.answer_markdown"},
    "sqlite3": {"journal.store"},
    "distributed": {"scale.checks", "scale.interrupts", "scale.jobs", "scale.worker"},
    "fastapi": {
        *("service.app", "service.schemas", "service.guard", "service.routes", "service.streams"),
    },
    "uvicorn": {"service.serving"},
    "prometheus_client": {"service.prometheus", "service.routes"},
}
LAZY_ONLY = {
    "markdown_it",
    "nh3",
    "sklearn",
    "gguf",
    "ipywidgets",
    "jsonschema",
    "plotly",
    "psutil",
    "referencing",
    "tenacity",
    "bm25s",
    "IPython",
    "charset_normalizer",
    "pypdf",
    "docx",
    "openpyxl",
}


def modules():
    for path in sources.FILES:
        parts = [
            part for part in path.relative_to(ROOT).with_suffix("").parts if part != "__init__"
        ]
        yield ".".join(parts) or "__init__", path


MODULES = dict(modules())


def find_in_all(find_faults):
    """
    List the faults that are found in all modules. One test names them all: one a module would cost
    more in pytest than the look at it.
    """
    return [fault for module, path in MODULES.items() for fault in find_faults(module, path)]


def layer(module):
    top = module.split(".")[0]
    for number, names in enumerate(LAYERS):
        if top in names:
            return number
    raise AssertionError(f"{module} has no layer: add it to LAYERS in {__file__}")


def test_a_run_without_evidence_loads_no_http_client():
    """What `urisk_nb.session` loads, and what these load: the client is 0.2 s of the first cell."""
    seen, left = set(), ["session"]
    while left:
        module = left.pop()
        if module in MODULES and module not in seen:
            seen.add(module)
            names = [name for name, is_lazy in list_imports(MODULES[module]) if not is_lazy]
            left += [name.removeprefix("urisk_nb.") for name in names]
    assert "recording.recorder" in seen
    assert seen.isdisjoint({"llm.client", "llm.labels", "llm.dialects.dialect"})


def find_order_faults(module, target):
    """What is wrong with an import within one part of the package."""
    package, here, there = module.split(".")[0], module.split(".")[1:], target.split(".")[1:]
    while len(here) > 1 and len(there) > 1 and here[0] == there[0]:
        package, here, there = f"{package}.{here[0]}", here[1:], there[1:]
    order = INSIDE[package]
    if here and there and order.index(there[0]) >= order.index(here[0]):
        yield f"{module} imports {target}: wrong order"


def find_layer_faults(module, target):
    """What is wrong with an import of another part of the package."""
    top, target_top = module.split(".")[0], target.split(".")[0]
    if layer(target) >= layer(module) and target not in BESIDE.get(module, ()):
        yield f"{module} imports {target}: points up or sideways"
    if target_top not in FIRST_PARTY_ONLY.get(top, {target_top}):
        yield f"{module} may not import {target}"


def find_direction_faults(module, path):
    """What is wrong with the imports of our own modules."""
    layer(module)
    for name, _ in list_imports(path):
        if name.split(".")[0] != "urisk_nb":
            continue
        target = name.removeprefix("urisk_nb").lstrip(".") or "__init__"
        if module in ALONE:
            yield f"{module} must not import urisk_nb"
        if target.split(".")[0] == module.split(".")[0]:
            yield from find_order_faults(module, target)
        elif target.split(".")[0] != "__init__":
            yield from find_layer_faults(module, target)


def test_imports_point_down():
    """
    First-party imports go to a lower layer, or to an earlier module of the same package.
    """
    assert find_in_all(find_direction_faults) == []


def find_budget_faults(module, path):
    """Which imports of foreign packages the house does not allow here."""
    top = module.split(".")[0]
    for full, lazy in list_imports(path):
        name = full.split(".")[0]
        if name == "urisk_nb":
            continue
        if module in STDLIB_ONLY and name not in sys.stdlib_module_names:
            yield f"{module} is stdlib-only, imports {name}"
        if name in NO_IO.get(top, ()):
            yield f"{module} does no I/O, imports {name}"
        if module not in ONE_OWNER.get(name, {module}):
            yield f"only {ONE_OWNER.get(name)} may import {name}, not {module}"
        if not lazy and name in LAZY_ONLY:
            yield f"{module} must import {name} inside a function"


def test_third_party_budget():
    """
    Each heavy, optional or I/O package is imported only where the house allows it.
    """
    assert find_in_all(find_budget_faults) == []


def find_size_faults(module, path):
    """Which functions are too long, and whether the module is without saying why."""
    source, tree = parse(path)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            length = (body[-1].end_lineno - body[0].lineno + 1) if body else 0
            if length > 60:
                yield f"{module}.{node.name} has {length} lines"
    if len(source.splitlines()) > 500:
        docstring = " ".join((ast.get_docstring(tree) or "").lower().split())
        if "over 400 lines" not in docstring:
            yield f"{module} is over 500 lines and does not say why"


def test_functions_stay_small():
    """
    No function is longer than 60 lines, and a module over 500 lines says in its docstring why it is
    one.
    """
    assert find_in_all(find_size_faults) == []


def test_every_module_has_a_layer_and_every_name_a_module():
    """
    A new file needs a layer, and a file that is gone leaves none behind.
    """
    there = {module.split(".")[0] for module in MODULES}
    assert sorted(name for names in LAYERS for name in names) == sorted(there)


# Folders of tests that belong to no one folder of the package.
TESTS_OF_ALL = {
    "contract": "the same facts over every server",
    "data": "recorded exchanges",
    "fake_ollama": "the scripted server that tests run against",
    "faults": "the fault matrix, over real kernels and processes",
    "test_fake_ollama": "the scripted server's own tests",
}


def test_tests_stand_in_the_order_of_the_house():
    """
    Each folder of the package has its tests in a folder of the same name, and there is no other.
    """
    folders = (path for path in TESTS.iterdir() if path.is_dir() and path.name != "__pycache__")
    tests = {path.name for path in folders if any(path.glob("*.*"))}
    house = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert tests - set(TESTS_OF_ALL) == house


def test_no_file_of_tests_is_long():
    """
    600 lines: a test is found by reading.
    """
    lines = {
        path.name: len(path.read_text(encoding="utf-8").splitlines())
        for path in sources.FILES_OF_TESTS
    }
    assert {name: count for name, count in lines.items() if count > 600} == {}


def test_files_are_in_the_order():
    """
    Every file of a package stands in the import order, and every name in the order is a file.
    """
    for package, order in INSIDE.items():
        folder = ROOT / package.replace(".", "/")
        folders = {path.name for path in folder.iterdir() if (path / "__init__.py").exists()}
        files = {path.stem for path in folder.glob("*.py")} - {"__init__"} | folders
        assert files == set(order)
