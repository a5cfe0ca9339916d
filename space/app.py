"""Fusion Hub in the browser: two registered images in, one image out.

    python space/app.py                     # http://127.0.0.1:7860
    python space/app.py --host 0.0.0.0 --port 8000

It runs on the bundled checkpoints and its own examples, without a network. The same files are the Hugging Face Space,
where `fusion_hub/` lies beside them.
"""

import importlib.util
import io
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path

import serving
import storage

if __name__ == "__main__":
    serving.parse()  # wrong options end here, not after seconds of imports
# Gradio reads both while it is imported.
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.update(storage.claim() if __name__ == "__main__" else {})

import gradio as gr
import style
import tabs
import views
from camera_tabs import cameras_tab
from examples import write_camera_examples, write_examples, write_volume_example
from fuse import MEDICAL, available_models
from network import BodyLimit, fill_in, log_refusals_in_one_line
from pairs import pair_tab
from starlette.middleware import Middleware
from uploads import MAX_BYTES
from volume_tab import volumes_tab

from fusion_hub.allocator import share_arenas
from fusion_hub.data import sample_pairs

FOLDER = storage.root() if __name__ == "__main__" else None  # only of a server of its own
QUEUE_LENGTH = 64


def build_app(examples_folder: Path) -> gr.Blocks:
    """Build the page.

    Args:
        examples_folder: existing folder for the examples; the first of each tab is fused in the background.

    Raises:
        RuntimeError: no checkpoint is installed.
    """
    share_arenas()  # this server has many threads
    names = {info.name for info in available_models()}
    rows = write_examples(examples_folder, [pair for pair in sample_pairs() if pair.model in names])
    with gr.Blocks(title="Fusion Hub", analytics_enabled=False, delete_cache=(storage.LIFETIME,) * 2) as app:
        gr.Markdown(style.INTRODUCTION, elem_id="head")
        # Not inside the tabs, whose numbers they would shift.
        last, last_street = (gr.State(None, time_to_live=storage.LIFETIME) for _ in range(2))
        with gr.Tabs(overflow_behavior="wrap"):
            with gr.Tab("Fuse", elem_id="tab_fuse"):
                pairs = [pair_tab([row for row in rows if row.model != MEDICAL])]
            if MEDICAL in names:
                with gr.Tab("Medical", elem_id="tab_medical"), gr.Tabs(elem_id="medical_kinds"):
                    with gr.Tab("Slices", elem_id="tab_slices"):
                        pairs += [pair_tab([row for row in rows if row.model == MEDICAL], "medical")]
                    with gr.Tab("Volumes", elem_id="tab_volumes"):
                        volumes_tab(write_volume_example(examples_folder))
            with gr.Tab("Two cameras", elem_id="tab_cameras"):
                cameras_tab(*write_camera_examples(examples_folder))
            views.follow_last(last, pairs)
            views.follow_last(last_street, pairs[:1])
            with gr.Tab("Detect and segment", elem_id="tab_detect"):
                views.detect_tab(pairs[0], last_street)
            with gr.Tab("Measure", elem_id="tab_measure"):
                views.measure_tab(pairs[0], last)
            with gr.Tab("How it works", elem_id="tab_how"):
                views.how_tab(pairs[0], last)
            with gr.Tab("Batch", elem_id="tab_batch"):
                tabs.batch_tab()
    fill_in(app)
    return app.queue(max_size=QUEUE_LENGTH, default_concurrency_limit=4)


def launch(app: gr.Blocks, host: str, port: int | None, open_browser: bool = False, block: bool = True) -> None:
    """Serve the page at `host`, never through a public tunnel.

    Without a port it takes the first free one from 7860. Returns at once if not `block`.
    """
    with redirect_stdout(io.StringIO()):  # Gradio announces its MCP server even where it is to be quiet
        app.launch(
            server_name=host,
            server_port=port,
            inbrowser=open_browser,
            share=False,
            show_error=False,  # True would show server paths; gr.Error is shown anyway
            max_file_size=MAX_BYTES,
            app_kwargs={"middleware": [Middleware(BodyLimit)]},
            ssr_mode=False,
            mcp_server=importlib.util.find_spec("mcp") is not None,
            footer_links=["api"],
            theme=style.THEME,
            css_paths=[style.CSS],
            js=style.SCRIPT.read_text(encoding="utf-8"),
            prevent_thread_lock=True,
            quiet=True,
        )
    if block:
        print(f"Fusion Hub is at {app.local_url} (Ctrl-C stops it)", flush=True)
        while True:  # Gradio's own waiting takes seconds to stop
            time.sleep(1)


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until interrupted. Returns 1 if no checkpoint is installed."""
    options = serving.parse(argv)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # like Ctrl+C: delete the files
    log_refusals_in_one_line()
    try:
        if FOLDER is not None:
            storage.start_sweeping(FOLDER)
        with tempfile.TemporaryDirectory(prefix=storage.EXAMPLES_PREFIX, dir=FOLDER) as folder:
            launch(build_app(Path(folder)), *options)
    except (RuntimeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0
    finally:
        if FOLDER is not None:
            shutil.rmtree(FOLDER, ignore_errors=True)
    return 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # at once: open pages and a pair that is being fused would delay it by seconds
