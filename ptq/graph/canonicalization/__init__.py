"""One spelling for every operation: what people write in many ways becomes what integer kernels know."""
