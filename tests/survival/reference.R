# Reference values of R's survival package for fm_med.survival.concordance.
# Run: Rscript tests/survival/reference.R > tests/survival/reference_concordance.json
suppressMessages(library(survival))

num <- function(v) paste0("[", paste(sprintf("%.17g", v), collapse = ", "), "]")
one <- function(v) sprintf("%.17g", v)

case <- function(name, n, event_rate, months, risk_step, seed) {
  set.seed(seed)
  subject <- sample(ceiling(n * 0.7), n, replace = TRUE)
  x <- rnorm(n)
  t <- rexp(n, 0.1 * exp(0.7 * x))
  c <- rexp(n, 0.1 * (1 - event_rate) / event_rate)
  time <- pmin(t, c)
  event <- as.numeric(t <= c)
  if (months) time <- ceiling(time * 2)
  risk <- x + rnorm(n, 0, 0.5)
  other <- 0.3 * x + rnorm(n)
  if (risk_step > 0) { risk <- round(risk / risk_step) * risk_step; other <- round(other / risk_step) * risk_step }
  time <- round(time, 6); risk <- round(risk, 6); other <- round(other, 6)
  f <- concordance(Surv(time, event) ~ risk, reverse = TRUE)
  g <- concordance(Surv(time, event) ~ risk, reverse = TRUE, cluster = subject)
  # both models at once: the covariance comes from the same infinitesimal jackknife
  a <- concordance(Surv(time, event) ~ risk, reverse = TRUE, influence = 1)
  b <- concordance(Surv(time, event) ~ other, reverse = TRUE, influence = 1)
  difference <- unname(coef(a) - coef(b))
  se <- sqrt(sum((a$dfbeta - b$dfbeta)^2))
  paste0("{\"name\": \"", name, "\", \"time\": ", num(time), ", \"event\": ", num(event),
    ", \"risk\": ", num(risk), ", \"other\": ", num(other), ", \"subject\": ", num(subject),
    ", \"c\": ", one(coef(f)), ", \"se\": ", one(sqrt(vcov(f))), ", \"se_clustered\": ", one(sqrt(vcov(g))),
    ", \"difference\": ", one(difference), ", \"se_difference\": ", one(se),
    ", \"p\": ", one(2 * pnorm(-abs(difference / se))), "}")
}

cases <- c(
  case("untied", 120, 0.6, FALSE, 0, 1),
  case("tied times", 120, 0.6, TRUE, 0, 2),
  case("tied times and risks", 150, 0.5, TRUE, 0.5, 3),
  case("few events", 200, 0.08, TRUE, 0.25, 4),
  case("all events", 80, 1 - 1e-9, TRUE, 0.5, 5)
)
cat("[", paste(cases, collapse = ",\n"), "]\n", sep = "")
