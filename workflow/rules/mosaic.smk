# Mosaics of the hour and of the night, and the photometry on them. The step finds the photometry of a
# tile beside its image: it tells the correction of the epoch.


rule hour_mosaic:
    input:
        images=hour_images,
        photometry=hour_photometry,
    output:
        image=nightly("mosaic_{hour}.fits"),
        maps=[nightly(f"mosaic_{{hour}}.{kind}.fits") for kind in MOSAIC_MAPS],
        sidecar=nightly("mosaic_{hour}.fits.json"),
    log:
        log_of("mosaic", "{night}", "{hour}"),
    benchmark:
        timing_of("mosaic", "{night}", "{hour}")
    conda:
        "../envs/science.yaml"
    resources:
        mem_mb=2000,
    params:
        code=code("mosaic"),
        tools=tools("mosaic"),
        options=options("mosaic"),
    shell:
        step("mosaic", "{output.image:q} {input.images:q} {params.options}")


use rule hour_mosaic as night_mosaic with:
    input:
        images=night_images,
        photometry=night_tables,
    output:
        image=nightly("mosaic.fits"),
        maps=[nightly(f"mosaic.{kind}.fits") for kind in MOSAIC_MAPS],
        sidecar=nightly("mosaic.fits.json"),
    log:
        log_of("mosaic", "{night}", "night"),
    benchmark:
        timing_of("mosaic", "{night}", "night")


use rule tile_photometry as night_photometry with:
    input:
        image=nightly("mosaic.fits"),
        maps=[nightly("mosaic.weight.fits"), nightly("mosaic.rms.fits")],
        catalog=str(CONFIG.catalog),
    output:
        table=nightly("photometry.csv"),
        sidecar=nightly("photometry.csv.json"),
    log:
        log_of("photometry", "{night}", "night"),
    benchmark:
        timing_of("photometry", "{night}", "night")


rule night_blind:
    input:
        image=nightly("mosaic.fits"),
        maps=[nightly("mosaic.weight.fits"), nightly("mosaic.rms.fits")],
        catalog=str(CONFIG.catalog),
    output:
        table=nightly("blind.csv"),
        sidecar=nightly("blind.csv.json"),
    log:
        log_of("blind", "{night}", "night"),
    benchmark:
        timing_of("blind", "{night}", "night")
    conda:
        "../envs/science.yaml"
    resources:
        mem_mb=2000,
    params:
        code=code("blind"),
        tools=tools("blind"),
        options=options("blind"),
    shell:
        step(
            "blind",
            "{input.image:q} {output.table:q} --catalog {input.catalog:q} "
            "{params.options}",
        )


# Calibrated data are temporary: for a field that is imaged from its visibilities they are made again,
# for each field by itself, or a new field would have the others imaged again.
use rule apply as field_apply with:
    output:
        ms=temp(directory(again("cal.ms"))),
        sidecar=temp(again("cal.ms.json")),
        record=temp(again("calibration.json")),
    log:
        log_of("joint", "{night}", "{field}_{group}"),
    benchmark:
        timing_of("joint", "{night}", "{field}_{group}")
    resources:
        mem_mb=4000,


rule field_image:
    input:
        sets=field_sets("cal.ms"),
        sidecars=field_sets("cal.ms.json"),
        images=field_tiles("image.fits"),
        beams=field_tiles("pb.fits"),
    output:
        image=nightly("joint_{field}.fits"),
        maps=[nightly(f"joint_{{field}}.{kind}.fits") for kind in MOSAIC_MAPS],
        sidecar=nightly("joint_{field}.fits.json"),
    log:
        log_of("joint", "{night}", "{field}"),
    benchmark:
        timing_of("joint", "{night}", "{field}")
    conda:
        "../envs/imaging.yaml"
    resources:
        mem_mb=4000,
    params:
        code=code("joint"),
        tools=tools("joint"),
        place=field_place,
        options=joint_options(),
    shell:
        step(
            "joint",
            "{output.image:q} --sets {input.sets:q} --images {input.images:q} "
            "--field {params.place} --threads {threads} {params.options}",
        )
