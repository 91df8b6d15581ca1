#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fulmar_fuzz::targets::sealed(data));
