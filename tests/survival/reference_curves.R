# Reference values of R's survival package for curves, the log-rank test, calibration and the rest.
# Run: Rscript tests/survival/reference_curves.R > tests/survival/reference_curves.json
# The data are written into the file too, so that the tests read everything from there.
suppressMessages(library(survival))
set.seed(41)
n <- 240
x <- round(rnorm(n), 4)
true <- rexp(n, 0.07 * exp(0.9 * x))
cens <- runif(n, 3, 20)
# Whole months, so that events and censorings share times; the evaluation horizon is a time of both.
time <- ceiling(pmin(true, cens))
event <- as.numeric(true <= cens)
weight <- round(runif(n, 0.3, 2), 3)
entry <- pmax(time - sample(1:12, n, replace = TRUE), 0)
group <- sample(0:2, n, replace = TRUE)
stratum <- sample(0:1, n, replace = TRUE)
risk <- round(pmin(1 - exp(-0.4 * exp(1.2 * x)), 0.99), 6)
horizon <- 8
times <- c(0, 1, 4.5, 8, 12, 19)

num <- function(v) paste0("[", paste(ifelse(is.finite(v), sprintf("%.17g", v), "null"), collapse = ", "), "]")
out <- list()
put <- function(name, v) out[[name]] <<- num(v)
for (name in c("time", "event", "weight", "entry", "group", "stratum", "risk", "horizon", "times"))
  put(name, get(name))

curve <- function(name, response, w = rep(1, n)) {
  fit <- survfit(response ~ 1, weights = w, conf.type = "log-log", robust = FALSE)
  for (part in c("time", "surv", "n.risk", "n.event", "lower", "upper"))
    put(paste(name, part, sep = "."), fit[[part]])
  put(paste(name, "median", sep = "."), unlist(quantile(fit, 0.5)))
  at <- summary(fit, times = times, extend = TRUE)
  put(paste(name, "at_surv", sep = "."), at$surv)
}
curve("plain", Surv(time, event))
curve("weighted", Surv(time, event), weight)
curve("late", Surv(entry, time, event))
curve("late_weighted", Surv(entry, time, event), weight)
curve("reverse", Surv(time, 1 - event))
put("plain.at_risk", summary(survfit(Surv(time, event) ~ 1), times = times, extend = TRUE)$n.risk)

test <- function(name, formula, df) {
  chi2 <- survdiff(formula)$chisq
  put(name, c(chi2, pchisq(chi2, df, lower.tail = FALSE)))
}
test("log_rank.two", Surv(time, event) ~ (group > 0), 1)
test("log_rank.three", Surv(time, event) ~ group, 2)
test("log_rank.strata", Surv(time, event) ~ group + strata(stratum), 2)

# Censoring: at equal times events come first, so censored rows leave a little later.
shifted <- time + ifelse(event == 1, 0, 1e-3)
censored <- survfit(Surv(shifted, 1 - event) ~ 1)
g <- function(t) summary(censored, times = t, extend = TRUE)$surv
g_before <- function(t) sapply(t, function(one) g(one - 1e-6))
put("censoring", g_before(times[-1]))

# Brier score at the horizon by its definition; censored at the horizon = free of the event there.
s <- 1 - risk
had <- event == 1 & time <= horizon
free <- shifted > horizon & !had
put("brier", mean(ifelse(had, s^2 / g_before(time), 0) + ifelse(free, (1 - s)^2 / g_before(horizon), 0)))

# Calibration at the horizon.
until <- pmin(time, horizon)
by <- as.numeric(had)
cll <- log(-log(1 - risk))
control <- coxph.control(eps = 1e-14, toler.chol = 1e-16, iter.max = 50)
slope <- coxph(Surv(until, by) ~ cll, control = control)
put("slope", c(coef(slope), sqrt(vcov(slope))))
as_given <- suppressWarnings(coxph(Surv(until, by) ~ cll, init = 1, control = coxph.control(iter.max = 0)))
put("intercept", log(tail(survfit(as_given, newdata = data.frame(cll = 0), se.fit = FALSE)$cumhaz, 1)))
km <- summary(survfit(Surv(time, event) ~ 1), times = horizon)
put("observed_expected", c((1 - km$surv) / mean(risk), km$std.err / (1 - km$surv)))
knots <- quantile(cll, c(0.1, 0.5, 0.9))
basis <- splines::ns(cll, knots = knots[2], Boundary.knots = knots[c(1, 3)])
smooth <- coxph(Surv(until, by) ~ b1 + b2, data = data.frame(b1 = basis[, 1], b2 = basis[, 2]), control = control)
hazard <- survfit(smooth, newdata = data.frame(b1 = basis[, 1], b2 = basis[, 2]), se.fit = FALSE)$cumhaz
observed <- 1 - exp(-hazard[nrow(hazard), ])
gap <- abs(observed - risk)
put("ici", c(mean(gap), quantile(gap, c(0.5, 0.9))))

# Net benefit (Vickers 2008).
thresholds <- c(0.05, 0.2, 0.4, 0.6)
benefit <- function(acted, p) {
  free <- summary(survfit(Surv(time[acted], event[acted]) ~ 1), times = horizon)$surv
  mean(acted) * ((1 - free) - free * p / (1 - p))
}
put("thresholds", thresholds)
put("net_benefit", sapply(thresholds, function(p) benefit(risk >= p, p)))
put("net_benefit_all", sapply(thresholds, function(p) benefit(rep(TRUE, n), p)))

cat("{\n\"survival\": \"", as.character(packageVersion("survival")), "\",\n", sep = "")
cat(paste0("\"", names(out), "\": ", unlist(out), collapse = ",\n"), "\n}\n", sep = "")
