"""Reads /metrics with Prometheus' own strict parser, and holds the names to its conventions.

Usage: metrics.py URL...; each finding is a line, and makes the exit status 1.
"""

import re
import sys
import urllib.request

from prometheus_client.openmetrics.parser import text_string_to_metric_families

BASE_UNITS = ("seconds", "bytes", "ratio", "meters", "celsius", "volts", "amperes", "joules", "grams")
OTHER_UNITS = re.compile(
    r"_(milliseconds?|microseconds?|nanoseconds?|minutes?|hours?|days?|ms|us|ns|kilobytes|megabytes|kib|mib|kb|mb|bits|percent)(_|$)"
)
TYPE_IN_NAME = re.compile(r"_(gauge|counter|histogram|summary|metric)s?(_|$)")
RESERVED = {"le", "quantile", "job", "instance"}
MOST_SERIES = 3000


def findings(text):
    if not text.endswith("# EOF\n"):
        yield "does not end with # EOF"
    series = 0
    for family in text_string_to_metric_families(text):
        name = family.name
        if not re.fullmatch(r"smart_storage_[a-z0-9]+(_[a-z0-9]+)*", name):
            yield f"{name}: not smart_storage_ and snake_case"
        if not family.documentation.strip():
            yield f"{name}: no HELP"
        if family.type in ("unknown", "untyped"):
            yield f"{name}: no TYPE"
        if family.type != "counter" and name.endswith(("_total", "_count", "_sum", "_bucket")):
            yield f"{name}: a {family.type} named like a part of another"
        if OTHER_UNITS.search(name):
            yield f"{name}: not a base unit"
        if TYPE_IN_NAME.search(name):
            yield f"{name}: its type is in its name"
        for unit in BASE_UNITS:
            if name.endswith("_" + unit) and family.unit != unit:
                yield f"{name}: no UNIT {unit}"
        for sample in family.samples:
            series += 1
            if family.type == "counter" and not sample.name.endswith(("_total", "_created")):
                yield f"{sample.name}: a counter without _total"
            for label in sample.labels:
                if not re.fullmatch(r"[a-z][a-z0-9_]*", label):
                    yield f"{sample.name}: label {label} is not snake_case"
                if label in RESERVED and not (label == "le" and family.type == "histogram"):
                    yield f"{sample.name}: label {label} is reserved"
    if series == 0:
        yield "nothing in it"
    if series > MOST_SERIES:
        yield f"{series} series"


def main():
    bad = 0
    for url in sys.argv[1:]:
        with urllib.request.urlopen(url, timeout=20) as answer:
            media_type = answer.headers["Content-Type"]
            text = answer.read().decode()
        if not media_type.startswith("application/openmetrics-text; version=1.0.0"):
            print(f"{url}: {media_type}")
            bad += 1
        for finding in sorted(set(findings(text))):
            print(f"{url}: {finding}")
            bad += 1
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
