"""Pages and tables from a `StudyRecord`: one self-contained HTML file, a notebook fragment, a terminal table.

    page.write(record, folder)      report.html
    page.notebook(record)           a fragment for a notebook cell
    terminal.text(record, width)    what `rich` prints
    study_file.read(folder)         the record back from study.json

Nothing here computes a result: what is not in the record is not on the page, and an estimate is always called one.
"""
