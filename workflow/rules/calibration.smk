# Calibration tables from calibrator transits; calibrated, averaged data for imaging.


# Solutions that could not be made anew are taken as they are.
rule calibrate:
    input:
        ms=tile("ms"),
        catalog=str(CONFIG.catalog),
    output:
        delay=directory(tile("kcal")),
        bandpass=directory(tile("bcal")),
        gain=directory(tile("gcal")),
        sidecars=[tile(f"{kind}.json") for kind in ("kcal", "bcal", "gcal")],
    log:
        log_of("calibrate", "{night}", "{group}"),
    benchmark:
        timing_of("calibrate", "{night}", "{group}")
    wildcard_constraints:
        group=planning.excluding(PLAN.settled | PLAN.solved) + GROUP_ID,
    conda:
        "../envs/casa.yaml"
    resources:
        mem_mb=4000,
    params:
        code=code("calibrate"),
        tools=tools("calibrate"),
        prefix=lambda wildcards, output: output.bandpass.removesuffix(".bcal"),
        calibrator=calibrator,
        calibrators=calibrator_table(),
        options=options("calibration"),
    shell:
        step(
            "calibrate",
            "{input.ms:q} {params.prefix:q} --calibrator={params.calibrator:q} "
            "{params.calibrators} --catalog {input.catalog:q} {params.options}",
        )


rule apply:
    input:
        ms=tile("ms"),
        tables=candidates,
    output:
        ms=temp(directory(tile("cal.ms"))),
        sidecar=tile("cal.ms.json"),
        record=tile("calibration.json"),
    log:
        log_of("apply", "{night}", "{group}"),
    benchmark:
        timing_of("apply", "{night}", "{group}")
    conda:
        "../envs/casa.yaml"
    resources:
        mem_mb=2000,
    params:
        code=code("apply"),
        tools=tools("apply"),
        candidates=candidate_options,
        options=options("apply"),
    shell:
        step("apply", "{input.ms:q} {output.ms:q} {params.candidates} {params.options}")
