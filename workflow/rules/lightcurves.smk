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
        tools=tools("lightcurves"),
        folder=folder_of,
        tables=night_tables_option(),
        options=options("lightcurves"),
    shell:
        step("lightcurves", "{params.folder:q} {params.tables} {params.options}")


rule candidate_plots:
    input:
        candidates=curves("candidates.csv"),
        curves=curves("lightcurves.parquet"),
    output:
        plots=directory(curves("candidates")),
        sidecar=curves("candidates.json"),
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
        step("candidate_plots", "{params.folder:q} {output.plots:q}")
