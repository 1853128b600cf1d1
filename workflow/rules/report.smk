# What people look at.


# A picture never fails a tile: what cannot be drawn leaves a note on the page.
rule tile_report:
    input:
        tile("photometry.csv"),
    output:
        page=tile("html"),
        sidecar=tile("html.json"),
        pictures=[tile(f"{kind}.jpg") for kind in ("view", "thumbnail")],
    log:
        log_of("tile-report", "{night}", "{group}"),
    benchmark:
        timing_of("tile-report", "{night}", "{group}")
    conda:
        "../envs/science.yaml"
    params:
        code=code("tile_report"),
        folder=folder_of,
    shell:
        step("tile_report", "{params.folder:q} {output.page:q}")


rule calibration_report:
    input:
        [tile(kind) for kind in ("kcal", "bcal", "gcal")],
    output:
        page=tile("solutions.html"),
        sidecar=tile("solutions.html.json"),
    log:
        log_of("calibration-report", "{night}", "{group}"),
    benchmark:
        timing_of("calibration-report", "{night}", "{group}")
    conda:
        "../envs/science.yaml"
    params:
        code=code("calibration_report"),
        folder=folder_of,
    shell:
        step("calibration_report", "{params.folder:q} {output.page:q}")


# A night's mosaic has thousands of megapixels; its page shows a small copy.
rule mosaic_view:
    input:
        nightly("mosaic.fits"),
    output:
        image=nightly("mosaic.view.fits"),
        sidecar=nightly("mosaic.view.fits.json"),
    log:
        log_of("mosaic-view", "{night}", "night"),
    benchmark:
        timing_of("mosaic-view", "{night}", "night")
    conda:
        "../envs/science.yaml"
    params:
        code=code("mosaic_view"),
    shell:
        step("mosaic_view", "{input:q} {output.image:q}")


rule night_qa:
    input:
        mosaics=night_mosaics,
        photometry=nightly("photometry.csv"),
        products=night_products,
    output:
        verdict=nightly("qa.json"),
        sidecar=nightly("qa.json.json"),
    log:
        log_of("qa", "{night}", "night"),
    benchmark:
        timing_of("qa", "{night}", "night")
    conda:
        "../envs/science.yaml"
    params:
        code=code("night_qa"),
        folder=folder_of,
        inventory=inventory_option(),
        options=options("qa"),
    shell:
        step(
            "night_qa",
            "{params.folder:q} {output.verdict:q} {params.inventory} {params.options}",
        )


# A night's page shows the light curves as they were when it was made: a later night remakes the light
# curves, not the pages of the nights before it.
rule night_report:
    input:
        qa=nightly("qa.json"),
        mosaic=night_view,
        pages=night_pages,
        curves=ancient(curves("lightcurves.parquet")),
    output:
        page=nightly("report.html"),
        sidecar=nightly("report.html.json"),
    log:
        log_of("report", "{night}", "night"),
    benchmark:
        timing_of("report", "{night}", "night")
    conda:
        "../envs/science.yaml"
    params:
        code=code("night_report"),
        folder=folder_of,
        curves=lambda wildcards, input: str(Path(input.curves).parent),
    shell:
        step(
            "night_report",
            "{params.folder:q} {output.page:q} --lightcurves {params.curves:q}",
        )


# The index that there is is built upon: adding a night costs that night.
rule index:
    input:
        curves("lightcurves.parquet"),
        every_night("qa.json"),
    output:
        index=str(LAYOUT.results / "index.sqlite"),
        sidecar=str(LAYOUT.results / "index.sqlite.json"),
    log:
        log_of("index", "all"),
    benchmark:
        timing_of("index", "all")
    conda:
        "../envs/science.yaml"
    params:
        code=code("index"),
        results=folder_of,
    shell:
        step("index", "{params.results:q} {output.index:q}")
