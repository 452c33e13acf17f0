"""A PDF from the command line to a citation: a person can open the page that an answer is from."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support import documents
from tests.support.documents import page_of_words
from tests.support.mesh import ROOT, SERVICES, Mesh, running_mesh

REMARK = "General remarks about this and that follow in their place and go on for a while. " * 8


def weft(mesh: Mesh, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "weft_cli.main", *arguments, "--mesh", mesh.address],
        capture_output=True, text=True, timeout=60, cwd=ROOT, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done
    return done.stdout


def test_an_answer_from_a_pdf_names_its_page_and_section(tmp_path: Path) -> None:
    pages = [page_of_words(REMARK, heading=f"Chapter {number}") for number in range(1, 12)]
    pages.append(page_of_words("The zephyr valve must be opened before the boiler is started.", heading="Setup"))
    folder = tmp_path / "documents"
    for made in (folder, tmp_path / "mesh"):
        made.mkdir()
    (folder / "guide.pdf").write_bytes(documents.pdf(pages, title="Boiler guide"))
    environ = {"WEFT_RETRIEVER__EMBEDDER": "none:"}
    with running_mesh(tmp_path / "mesh", dict.fromkeys(SERVICES, 1), environ=environ) as mesh:
        weft(mesh, "ingest", str(folder))  # a folder: PDFs in it are found
        shown = weft(mesh, "ask", "What must be opened before the boiler is started?")
    assert "guide.pdf, p. 12, § Setup\n" in shown
    assert "zephyr valve" in shown
