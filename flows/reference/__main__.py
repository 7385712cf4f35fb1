"""Writes the reference pages."""

from flows.reference.pages import FOLDER, pages


def main() -> None:
    """Write every page that is not as it should be, and say which."""
    FOLDER.mkdir(exist_ok=True)
    for name, text in pages().items():
        file = FOLDER / name
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            file.write_text(text, encoding="utf-8")
            print(file)


if __name__ == "__main__":
    main()
