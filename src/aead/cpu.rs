//! What the processor has that decides between implementations.
#![forbid(unsafe_code)]

/// The wide AES and carry-less multiplication instructions, but at 256 bits only: AMD's Zen 3,
/// Intel's client processors.
#[cfg(target_arch = "x86_64")]
pub(super) fn has_vaes_without_avx512() -> bool {
    is_x86_feature_detected!("vaes")
        && is_x86_feature_detected!("vpclmulqdq")
        && is_x86_feature_detected!("avx2")
        && !has_avx512()
}

/// AVX-512 as AWS-LC and OpenSSL ask for it.
#[cfg(target_arch = "x86_64")]
pub(super) fn has_avx512() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
}

#[cfg(not(target_arch = "x86_64"))]
pub(super) fn has_vaes_without_avx512() -> bool {
    false
}

#[cfg(not(target_arch = "x86_64"))]
pub(super) fn has_avx512() -> bool {
    false
}
