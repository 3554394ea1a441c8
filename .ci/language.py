#!/usr/bin/env python3
"""Measures the language of the sources and documents: `python3 .ci/language.py [-v] [PATH ...]`.

For each top-level directory (or each PATH that is given) it prints the number of sentences, the words
per sentence, the share of sentences with more than 30 words, and the plain comment lines per 100 lines
of code. With -v it also prints each long sentence and each line with a word of the list AVOIDED.

Reads doc comments and plain comments of Rust, comments of C (only `//`), shell, Python and TOML, and
the prose of Markdown. Code blocks and tables are left out: they are not sentences. Files without an
extension, such as most scripts in .ci, are not read. Paths are relative to the repository.
"""
import os
import re
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
LONG_WORDS = 30
# Also in names of functions, such as `without_a_door`.
AVOIDED = re.compile(r"(?<![a-z])(who|whom|whoever|nobody|somebody|everybody|doors?|owed|lest)(?![a-z])", re.I)
MARKERS = {
    ".rs": re.compile(r"^\s*(///|//!|//)(?: (.*)|)$"),
    ".c": re.compile(r"^\s*(//)(?: (.*)|)$"),
    ".h": re.compile(r"^\s*(//)(?: (.*)|)$"),
    ".py": re.compile(r"^\s*(#)(?: (.*)|)$"),
    ".sh": re.compile(r"^\s*(#)(?: (.*)|)$"),
    ".toml": re.compile(r"^\s*(#)(?: (.*)|)$"),
}
DOC = ("///", "//!")


def files(paths):
    """The files under version control below `paths` whose names end as in MARKERS, or in .md."""
    listed = subprocess.run(["git", "ls-files", "-z", "--"] + paths, cwd=ROOT, stdout=subprocess.PIPE, check=True)
    for name in listed.stdout.decode().split("\0"):
        if os.path.splitext(name)[1] in list(MARKERS) + [".md"] and os.path.isfile(os.path.join(ROOT, name)):
            yield name


def prose(lines):
    """The sentences of consecutive lines of text. Code blocks, tables and headings end a paragraph."""
    paragraphs, is_code = [[]], False
    for line in lines:
        text = line.strip()
        if text.startswith("```"):
            is_code = not is_code
        if is_code or not text or text.startswith(("```", "|", "#", "<", "[", "![")):
            paragraphs.append([])
            continue
        if re.match(r"([-*]|\d+\.) ", text):
            paragraphs.append([])
            text = re.sub(r"^([-*]|\d+\.) ", "", text)
        paragraphs[-1].append(text)
    for paragraph in paragraphs:
        text = re.sub(r"`[^`]*`", "code", " ".join(paragraph))
        text = re.sub(r"\]\([^)]*\)", "]", text)
        for sentence in re.split(r"(?<=[.!?])[)\"]?\s+(?=[A-Z(\[\"`]|code)", text):
            if len(sentence.split()) > 1:
                yield sentence


class Figures:
    """Counts of one group of files."""

    def __init__(self):
        self.sentences, self.words, self.comments, self.code = [], 0, 0, 0
        self.avoided = []

    def read(self, name):
        with open(os.path.join(ROOT, name), encoding="utf-8") as file:
            lines = file.read().splitlines()
        self.avoided += ["%s:%d: %s" % (name, at, line.strip()) for at, line in enumerate(lines, 1) if AVOIDED.search(line)]
        extension = os.path.splitext(name)[1]
        if extension == ".md":
            return self.add(name, lines)
        marker, block = MARKERS[extension], []
        for line in lines + [""]:
            match = marker.match(line)
            if match:
                block.append(match.group(2) or "")
                self.comments += match.group(1) not in DOC
                continue
            self.add(name, block)
            block = []
            self.code += bool(line.strip())

    def add(self, name, lines):
        for sentence in prose(lines):
            self.sentences.append((name, sentence))
            self.words += len(sentence.split())

    def long(self):
        return [entry for entry in self.sentences if len(entry[1].split()) > LONG_WORDS]

    def row(self, title):
        count = max(len(self.sentences), 1)
        return "%-28s %9d %14.1f %10.1f %% %22.1f %9d" % (
            title, len(self.sentences), self.words / count, 100 * len(self.long()) / count,
            100 * self.comments / max(self.code, 1), len(self.avoided))


def main(arguments):
    is_verbose = "-v" in arguments
    paths = [argument for argument in arguments if argument != "-v"]
    groups = {}
    for name in files(paths or ["."]):
        parts = name.split("/")
        title = next((path for path in paths if name == path or name.startswith(path.rstrip("/") + "/")), None)
        if title is None:
            title = "/".join(parts[:2]) if parts[0] == "src" else parts[0]
        groups.setdefault(title, Figures()).read(name)
    print("%-28s %9s %14s %12s %22s %9s" % ("", "sentences", "words/sentence", "over 30", "comments/100 of code", "avoided"))
    whole = Figures()
    for title in sorted(groups):
        figures = groups[title]
        print(figures.row(title))
        whole.sentences += figures.sentences
        whole.words += figures.words
        whole.comments += figures.comments
        whole.code += figures.code
        whole.avoided += figures.avoided
    print(whole.row("all"))
    if is_verbose:
        for name, sentence in whole.long():
            print("%s: %d words: %s" % (name, len(sentence.split()), sentence))
        print("\n".join(whole.avoided))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
