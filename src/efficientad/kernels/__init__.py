"""Native building blocks that make the networks faster, never different."""

from efficientad.kernels.forks import end_threads_before_forks

end_threads_before_forks()
