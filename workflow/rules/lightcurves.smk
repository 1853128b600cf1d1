# All nights together.


rule lightcurves:
    input:
        every_night("photometry.csv"),
    output:
        curves=curves("lightcurves.parquet"),
        variability=curves("variability.csv"),
        candidates=curves("candidates.csv"),
        sidecar=curves("lightcurves.parquet.json"),
    log:
        log_of("lightcurves", "all"),
    benchmark:
        timing_of("lightcurves", "all")
    conda:
        "../envs/science.yaml"
    params:
        code=code("lightcurves"),
        folder=folder_of,
        options=options("lightcurves"),
    shell:
        "python {SCRIPTS}/lightcurves.py {params.folder:q} {input:q} {params.options} > {log:q} 2>&1"


rule candidate_plots:
    input:
        candidates=curves("candidates.csv"),
        curves=curves("lightcurves.parquet"),
    output:
        directory(curves("candidates")),
    log:
        log_of("candidate_plots", "all"),
    benchmark:
        timing_of("candidate_plots", "all")
    conda:
        "../envs/science.yaml"
    params:
        code=code("candidate_plots"),
        folder=folder_of,
    shell:
        "python {SCRIPTS}/candidate_plots.py {params.folder:q} {output:q} > {log:q} 2>&1"
