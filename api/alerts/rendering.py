"""The process that renders one template: a template and a notification come in, as JSON, and its output goes out."""

import json
import resource
import sys
import traceback

from jinja2 import StrictUndefined, TemplateSyntaxError
from jinja2.exceptions import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

CPU_S = 2
MEMORY_BYTES = 512 << 20
OUTPUT_CHARACTERS = 256 << 10


def main() -> str | None:
    """Render it; what went wrong, if something did."""
    # A template may hold no more than its own process down.
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    given = json.load(sys.stdin)
    environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined)
    environment.filters["tojson"] = tojson
    length = 0
    pieces = []
    try:
        for piece in environment.from_string(given["template"]).generate(notification=given["notification"]):
            length += len(piece)
            if length > OUTPUT_CHARACTERS:
                return f"its output is longer than {OUTPUT_CHARACTERS} characters"
            pieces.append(piece)
    except TemplateSyntaxError as error:
        return f"line {error.lineno}: {error.message}"
    except MemoryError:
        return "it takes more memory than it may"
    except (
        TemplateError,
        ArithmeticError,
        AttributeError,
        LookupError,
        TypeError,
        ValueError,
        RecursionError,
    ) as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == "<template>"]
        return f"{f'line {lines[-1]}: ' if lines else ''}{' '.join(str(error).split()) or type(error).__name__}"
    sys.stdout.buffer.write("".join(pieces).encode())
    return None


def tojson(content: object, indent: int | None = None) -> str:
    """As JSON. Jinja's own filter of that name escapes for HTML."""
    return json.dumps(content, ensure_ascii=False, indent=indent)


if __name__ == "__main__":
    sys.exit(main())
