"""The form of a report: the verdict, the plots that show it, then all the rest; as one HTML page and as Markdown.

    document    what a report consists of, and how what strangers wrote is bounded
    text        it as Markdown, without plots
    page        it as one HTML file that needs nothing else; needs the extra `dub5[loadtest]`
    drawing     plots as SVG, by matplotlib

A load test and the autoscaling advisor say what is in theirs: loadtest/report.py, advisor/page.py.
"""
