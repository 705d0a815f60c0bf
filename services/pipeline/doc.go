// Package pipeline turns commits into what runs: it serves the kinds Pipeline and
// Build (api/v1alpha1).
//
// A [Service] watches Git repositories (by asking, by webhook, by the calendar),
// makes a numbered Build of each new commit, and carries Builds out: fetch, build,
// test, deploy, and back to the last good Build when the new one does not become
// ready. What builds, signs and loads is given to it ([Config]), since that is
// another service's or needs this machine; what deploys is internal/app, as for
// `gantry up`.
//
// Guarantees: one Build of a Pipeline at a time and Config.Parallel altogether, the
// oldest first; a Build that a newer commit has overtaken is cancelled before it
// deploys; a Build that this process did not finish is carried out by the next. A
// repository is not trusted: what it names is read inside of its checkout only, its
// images go below the Pipeline's namespace in the registry, and its application is
// deployed with the rights of the Pipeline's service account. A webhook is a hint: it
// makes the service look at the repository, so that a forged or repeated one leads
// to nothing that is not there.
//
// Callers may not assume that a log, or what an old Build deployed, is kept longer
// than the Pipeline's historyLimit. cmd/gantry imports it; without Pipelines it does
// nothing but watch for one.
package pipeline
