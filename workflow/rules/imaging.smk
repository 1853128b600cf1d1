# Tiles and the photometry on them.


rule image:
    input:
        ms=tile("cal.ms"),
        catalog=str(CONFIG.catalog),
    output:
        image=tile("image.fits"),
        maps=[tile(f"{kind}.fits") for kind in TILE_MAPS],
        optional=[tile(name) for name in OPTIONAL],
        sidecar=tile("image.fits.json"),
    log:
        log_of("image", "{night}", "{group}"),
    benchmark:
        timing_of("image", "{night}", "{group}")
    conda:
        "../envs/imaging.yaml"
    resources:
        mem_mb=4000,
    params:
        code=code("image"),
        tools=tools("image"),
        prefix=lambda wildcards, output: output.image.removesuffix(".image.fits"),
        options=options("imaging", "selfcal"),
    shell:
        step(
            "image",
            "{input.ms:q} {params.prefix:q} --catalog {input.catalog:q} --threads "
            "{threads} {params.options}",
        )


rule tile_photometry:
    input:
        image=tile("image.fits"),
        maps=[tile("pb.fits"), tile("rms.fits")],
        catalog=str(CONFIG.catalog),
    output:
        table=tile("photometry.csv"),
        sidecar=tile("photometry.csv.json"),
    log:
        log_of("photometry", "{night}", "{group}"),
    benchmark:
        timing_of("photometry", "{night}", "{group}")
    conda:
        "../envs/science.yaml"
    params:
        code=code("photometry"),
        tools=tools("photometry"),
        options=options("photometry"),
    shell:
        step(
            "photometry",
            "{input.image:q} {output.table:q} --catalog {input.catalog:q} "
            "{params.options}",
        )
