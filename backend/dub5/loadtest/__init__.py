"""Reports on load tests: what k6 measured outside, what Prometheus measured inside, and what to make of it.

    runs        what deploy/k6 prints at the end of a run
    series      figures over time, asked of Prometheus or kept in a file
    rules       pure: which resource was full, when, and which one first
    report      one document of both, whose form is that of report/
    command     `dub5 loadtest report`

Nothing here is needed to serve: what it needs besides is the extra `dub5[loadtest]`.
"""
