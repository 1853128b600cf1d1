# Raw subbands to a flagged Measurement Set.


rule group:
    input:
        subbands,
    output:
        group=tile("hdf5"),
        sidecar=tile("hdf5.json"),
    log:
        log_of("group", "{night}", "{group}"),
    benchmark:
        timing_of("group", "{night}", "{group}")
    conda:
        "../envs/conversion.yaml"
    params:
        code=code("group"),
        tools=tools("group"),
        stamp=stamp,
    shell:
        step("group", "{output.group:q} {input:q}")


rule convert:
    input:
        tile("hdf5"),
    output:
        ms=directory(tile("ms")),
        sidecar=tile("ms.json"),
    log:
        log_of("convert", "{night}", "{group}"),
    benchmark:
        timing_of("convert", "{night}", "{group}")
    conda:
        "../envs/conversion.yaml"
    resources:
        mem_mb=2000,
    params:
        code=code("convert"),
        tools=tools("convert"),
        options=options("conversion", "flagging"),
    shell:
        step("convert", "{input:q} {output.ms:q} {params.options}")
