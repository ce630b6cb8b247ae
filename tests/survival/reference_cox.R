# Reference values of R's survival package for fm_med.survival (Cox fits, baselines, competing risks).
# Run: Rscript tests/survival/reference_cox.R > tests/survival/reference_cox.json
suppressMessages(library(survival))
set.seed(20261121)
n <- 160
x0 <- round(rnorm(n), 4)
x1 <- round(rnorm(n, 60, 10), 2)
x2 <- rbinom(n, 1, 0.4)
lp <- 0.6 * x0 + 0.04 * (x1 - 60) - 0.5 * x2
t1 <- rexp(n, 0.08 * exp(lp))
t2 <- rexp(n, 0.05 * exp(-0.5 * lp))
cens <- runif(n, 2, 25)
raw <- pmin(t1, t2, cens)
time <- ceiling(raw)
cause <- ifelse(raw == cens, 0, ifelse(raw == t1, 1, 2))
weight <- round(runif(n, 0.3, 2), 3)
strata <- sample(3, n, replace = TRUE)
entry <- pmax(time - sample(1:12, n, replace = TRUE), 0)
offset <- round(rnorm(n, 0, 0.3), 4)
d <- data.frame(x0, x1, x2, time, cause, weight, strata, entry, offset, id = seq_len(n))
d$event <- as.numeric(d$cause == 1)
horizons <- c(2, 5.5, 10)
newdata <- data.frame(x0 = c(-1, 0.5, 2), x1 = c(45, 60, 75), x2 = c(0, 1, 1), strata = 1)
out <- list()

num <- function(v) paste0("[", paste(ifelse(is.finite(v), sprintf("%.17g", v), "null"), collapse = ", "), "]")
str <- function(v) paste0("\"", v, "\"")
obj <- function(...) {
  parts <- list(...)
  paste0("{", paste(paste0(str(names(parts)), ": ", unlist(parts)), collapse = ", "), "}")
}
control <- coxph.control(eps = 1e-14, toler.chol = 1e-16, iter.max = 50)

fit <- function(ties, w, s, e, o) {
  left <- if (e) "Surv(entry, time, event)" else "Surv(time, event)"
  right <- paste(c("x0 + x1 + x2", if (s) "strata(strata)", if (o) "offset(offset)"), collapse = " + ")
  call <- list(as.formula(paste(left, "~", right)), data = d, ties = ties, control = control)
  if (w) call$weights <- d$weight
  if (w) call$robust <- FALSE
  do.call(coxph, call)
}
cases <- c()
for (ties in c("efron", "breslow")) for (k in 0:5) {
  w <- k == 1 || k == 5; s <- k == 2 || k == 5; e <- k == 3 || k == 5; o <- k == 4 || k == 5
  f <- fit(ties, w, s, e, o)
  b <- basehaz(f, centered = FALSE)
  if (is.null(b$strata)) b$strata <- "strata=1"
  cases <- c(cases, obj(ties = str(ties), weight = tolower(w), strata = tolower(s), entry = tolower(e),
    offset = tolower(o), coefficients = num(coef(f)), covariance = num(as.vector(vcov(f))),
    loglik = num(f$loglik), base_time = num(b$time), base_hazard = num(b$hazard),
    base_stratum = num(as.numeric(sub(".*=", "", b$strata)))))
}

risks <- c()
for (ties in c("efron", "breslow")) {
  f <- coxph(Surv(time, event) ~ x0 + x1 + x2, d, ties = ties, control = control)
  s <- summary(survfit(f, newdata = newdata, conf.type = "log-log"), times = horizons)
  risks <- c(risks, obj(ties = str(ties), survival = num(as.vector(s$surv)),
    low = num(as.vector(s$lower)), high = num(as.vector(s$upper))))
}

# Ridge on two columns as they are, the third one free.
ridge_cases <- c()
for (theta in c(1, 20)) {
  z0 <- d$x0; z1 <- d$x1
  scale <- function(v) (v - mean(v)) / sqrt(mean((v - mean(v))^2))
  d$z0 <- scale(z0); d$z1 <- scale(z1)
  f <- coxph(Surv(time, event) ~ ridge(z0, z1, theta = theta, scale = FALSE) + x2, d, ties = "efron",
    control = control)
  ridge_cases <- c(ridge_cases, obj(theta = num(theta), coefficients = num(coef(f))))
}

incidence <- c()
for (k in 0:2) {
  d$state <- factor(d$cause, 0:2, c("censor", "one", "two"))
  f <- switch(k + 1,
    survfit(Surv(time, state) ~ 1, d, id = id, conf.type = "log-log"),
    survfit(Surv(time, state) ~ 1, d, id = id, weights = weight, conf.type = "log-log"),
    survfit(Surv(entry, time, state) ~ 1, d, id = id, conf.type = "log-log"))
  incidence <- c(incidence, obj(weight = tolower(k == 1), entry = tolower(k == 2), time = num(f$time),
    one = num(f$pstate[, 2]), two = num(f$pstate[, 3]), one_error = num(f$std.err[, 2]),
    two_error = num(f$std.err[, 3]), one_low = num(f$lower[, 2]), one_high = num(f$upper[, 2])))
}

# Breslow: with Efron ties survival 3.5-3 gives a multi-state baseline below that of the same
# model fitted cause by cause.
multi <- coxph(Surv(time, state) ~ x0 + x1 + x2, d, id = id, ties = "breslow", control = control)
ms <- survfit(multi, newdata = newdata)
at <- findInterval(horizons, ms$time)
joint <- obj(coefficients = num(coef(multi)), one = num(as.vector(ms$pstate[at, , 2])),
  two = num(as.vector(ms$pstate[at, , 3])))

fg <- finegray(Surv(time, state) ~ ., d, etype = "one")
beta <- c(0.4, -0.02, 0.3)
fixed <- coxph(Surv(fgstart, fgstop, fgstatus) ~ x0 + x1 + x2, fg, weights = fgwt, ties = "breslow",
  init = beta, iter.max = 0)
best <- coxph(Surv(fgstart, fgstop, fgstatus) ~ x0 + x1 + x2, fg, weights = fgwt, ties = "breslow",
  control = control)
gray <- obj(beta = num(beta), loglik = num(fixed$loglik[2]), rows = num(nrow(fg)),
  score = num(colSums(residuals(fixed, "score", weighted = TRUE))),
  coefficients = num(coef(best)), best_loglik = num(best$loglik[2]))

list_of <- function(v) paste0("[\n    ", paste(v, collapse = ",\n    "), "\n  ]")
columns <- sapply(c("x0", "x1", "x2", "time", "cause", "weight", "strata", "entry", "offset"),
  function(name) paste0("  ", str(name), ": ", num(d[[name]])))
cat("{\n", paste(columns, collapse = ",\n"), ",\n", sep = "")
cat("  \"version\": ", str(paste("R", getRversion(), "survival", packageVersion("survival"))), ",\n", sep = "")
cat("  \"horizons\": ", num(horizons), ",\n", sep = "")
cat("  \"new\": ", num(as.vector(as.matrix(newdata[, 1:3]))), ",\n", sep = "")
cat("  \"cases\": ", list_of(cases), ",\n  \"risks\": ", list_of(risks), ",\n", sep = "")
cat("  \"ridge\": ", list_of(ridge_cases), ",\n  \"incidence\": ", list_of(incidence), ",\n", sep = "")
cat("  \"joint\": ", joint, ",\n  \"fine_gray\": ", gray, "\n}\n", sep = "")
