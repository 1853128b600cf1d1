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
        "python -m dsa110_contimg lightcurves {params.folder} {input} {params.options} > {log} 2>&1"
