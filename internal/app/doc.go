// Package app turns an application that people already have, a Compose file or a
// folder of Kubernetes manifests, into Kubernetes objects and keeps a cluster in
// agreement with them.
//
// Load is pure: it reads files and returns an Application, or one error that
// names file and field. Nothing in the input is dropped silently: what has no
// equivalent is an entry in Application.Warnings, and what the application cannot
// work without is an error. Deploy, Down and List need only a *rest.Config, so
// they behave the same on Gantry's engine and on any other cluster.
//
// Deploy guarantees that nothing is changed unless every object is accepted by
// the server's dry run first, that an unchanged application restarts nothing, and
// that it returns nil only when every workload is ready. Objects that an earlier
// Deploy made and the application no longer declares are deleted, except volumes
// that hold data (PersistentVolumeClaims).
//
// Callers may not assume anything about object names beyond README.md, which is
// the reference for how Compose is translated. Imported by cmd/gantry and
// services/pipeline, which deploys what another process has loaded (Encode, Decode).
package app
