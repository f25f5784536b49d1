#!/bin/bash -eu
# Builds the targets inside OSS-Fuzz's base image for Python, which sets $SRC, $OUT and the
# command compile_python_fuzzer.
cd "$SRC/wsproto-sip"
pip3 install .

python3 -m fuzz.seeds "$WORK/seeds"
for program in fuzz/fuzz_*.py; do
    name=$(basename "$program" .py)
    target=${name#fuzz_}
    compile_python_fuzzer "$program"
    zip -j -q "$OUT/${name}_seed_corpus.zip" "$WORK/seeds/$target"/*
    if [ -f "fuzz/dictionaries/$target.dict" ]; then
        cp "fuzz/dictionaries/$target.dict" "$OUT/$name.dict"
    fi
done
