# Reference values of Cox's partial likelihood by R's survival package:
#   Rscript tests/objectives/cox_reference.R > tests/objectives/cox_reference.json
# The data are written into the file too, so that the test reads everything from there. The gradient
# is the sum of the score residuals with one coefficient per column at fixed coefficients.
suppressMessages(library(survival))
set.seed(20)
n <- 60
x <- round(cbind(rnorm(n), rnorm(n)), 3)
beta <- c(0.7, -0.4)
time <- ceiling(rexp(n, 0.1)) + 3
event <- rbinom(n, 1, 0.6)
weight <- round(runif(n, 0.2, 3), 2)
strata <- sample(0:2, n, TRUE)
entry <- pmax(0, time - sample(1:9, n, TRUE))
digits <- function(v) paste0("[", paste(formatC(v, digits = 17, format = "g"), collapse = ", "), "]")
cat("{\n")
cat(sprintf('"survival": "%s",\n', packageVersion("survival")))
cat('"x0": ', digits(x[, 1]), ',\n"x1": ', digits(x[, 2]), ',\n"beta": ', digits(beta), ",\n", sep = "")
for (name in c("time", "event", "weight", "strata", "entry"))
  cat('"', name, '": ', digits(get(name)), ",\n", sep = "")
cat('"cases": [\n')
first <- TRUE
for (ties in c("efron", "breslow")) for (use in 0:7) {
  weighted <- bitwAnd(use, 1) > 0; stratified <- bitwAnd(use, 2) > 0; late <- bitwAnd(use, 4) > 0
  response <- if (late) Surv(entry, time, event) else Surv(time, event)
  form <- if (stratified) response ~ x + strata(strata) else response ~ x
  w <- if (weighted) weight else rep(1, n)
  fit <- coxph(form, weights = w, ties = ties, init = beta, control = coxph.control(iter.max = 0))
  score <- colSums(as.matrix(residuals(fit, "score")) * w)
  if (!first) cat(",\n")
  first <- FALSE
  cat(sprintf('{"ties": "%s", "weight": %s, "strata": %s, "entry": %s, "loglik": %s, "score": %s}',
    ties, tolower(weighted), tolower(stratified), tolower(late),
    formatC(fit$loglik[length(fit$loglik)], digits = 17, format = "g"), digits(score)))
}
cat("\n]\n}\n")
