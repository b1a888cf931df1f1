# What tests wait for, and what they do when it is there: never after a time, which is another on every machine.
# The fresh R of in_fresh_r() has these as well.

# Seconds that what must happen is waited for. No machine is so slow; without an end, a fault would never be seen.
LONG_ENOUGH <- 1800

wait_until <- function(holds) {
  ends <- Sys.time() + LONG_ENOUGH
  while (!holds()) {
    if (Sys.time() > ends) stop("this never came to hold: ", paste(deparse(body(holds)), collapse = " "))
    Sys.sleep(0.02)
  }
}

# Has `code(own, ...)` called in place of a function of the package, which is `own`.
instead_of <- function(name, code) {
  namespace <- asNamespace("bertonnx")
  own <- get(name, namespace)
  unlockBinding(name, namespace)
  assign(name, function(...) code(own, ...), namespace)
}

# Calls `act()` once, as soon as R hears that a work in the background is `so_far(state)`, and not over.
when_a_work_is <- function(so_far, act) {
  acted <- FALSE
  instead_of("engine_wait", function(own, engine, work, heard, call) {
    own(engine, work, function(state) {
      if (!acted && !isTRUE(state$finished) && so_far(state)) {
        acted <<- TRUE
        act()
      }
      heard(state)
    }, call)
  })
}

# Calls `act(n)` when the n-th chunk of a prediction has come.
at_each_chunk <- function(act) {
  n <- 0
  instead_of("engine_chunk", function(own, started, call) {
    chunk <- own(started, call)
    n <<- n + 1
    act(n)
    chunk
  })
}

# As Ctrl-C does, here and now.
interrupt_this_r <- function() tools::pskill(Sys.getpid(), tools::SIGINT)

# As Ctrl-C does, soon after a file appears: wherever R, or Python in it, is then.
interrupt_after <- function(file) {
  system(sprintf(
    "(while kill -0 %1$d && ! test -e %2$s; do sleep 0.02; done; kill -INT %1$d) 2> /dev/null &",
    Sys.getpid(), shQuote(file)
  ))
}
