#!/usr/bin/env bash
# Build llama.cpp's own tools, the peers of the text benchmarks, from the source
# package of llama-cpp-python:
#
#     benchmarks/build_llama_cpp.sh DIR [native|portable]...
#
# DIR/native/bin is built for this processor, DIR/portable/bin for any x86-64 with
# AVX2, as the xllamacpp wheel that genkit uses is. Both by default. Needs pip, cmake,
# ninja and a C++ compiler; twenty minutes on two cores.
set -euo pipefail

(($#)) || { sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0" >&2; exit 2; }
mkdir -p "$1"
cd "$1"
shift
builds=("$@")
((${#builds[@]})) || builds=(native portable)
package=llama-cpp-python

if [[ ! -d source ]]; then
  "${PYTHON:-python3}" -m pip download --no-binary "$package" --no-deps "$package"
  mkdir source.part
  tar -xzf llama_cpp_python-*.tar.gz -C source.part --strip-components=1
  mv source.part source
fi

for build in "${builds[@]}"; do
  case $build in
    native) native=ON ;;
    portable) native=OFF ;; # ggml then takes SSE 4.2, AVX, AVX2, BMI2, FMA and F16C
    *) echo "no such build: $build; use native or portable" >&2; exit 2 ;;
  esac
  cmake -S source/vendor/llama.cpp -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=$native \
    -DBUILD_SHARED_LIBS=OFF -DLLAMA_CURL=OFF -DLLAMA_OPENSSL=OFF -DLLAMA_BUILD_UI=OFF \
    -DLLAMA_BUILD_SERVER=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF
  ninja -C "$build" llama-bench llama-batched-bench llama-completion
done
