package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/gantryhq/gantry/engine/store"
	"github.com/gantryhq/gantry/internal/atomicfile"
	"github.com/gantryhq/gantry/internal/hint"
)

const (
	// backupEvery is how old the newest automatic backup may become.
	backupEvery = time.Hour
	// backupsKept is how many automatic backups are kept.
	backupsKept = 24
	backupName  = "state-20060102T150405Z.db" // time.Format layout, sorts by age
)

func newBackupCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "backup FILE",
		Short: "Write a consistent copy of all API objects while Gantry runs",
		Long: "Copies the store of the running Gantry to FILE (- is standard output). `gantry serve` also\n" +
			"keeps a day of hourly copies in the data directory's backups. To restore: stop Gantry, put a\n" +
			"copy in place of state.db in the data directory, start Gantry. Volumes and images are files\n" +
			"of their own below the data directory and not part of it.",
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			dataDir := findInstance(c.Context(), g).dataDir
			body, err := fetchBackup(c.Context(), dataDir)
			if err != nil {
				return err
			}
			defer body.Close()
			if args[0] == "-" {
				_, err := io.Copy(c.OutOrStdout(), body)
				return err
			}
			if err := atomicfile.Replace(args[0], 0o600, func(w io.Writer) error { _, err := io.Copy(w, body); return err }); err != nil {
				return err
			}
			fmt.Fprintf(c.OutOrStdout(), "copied the objects of %s to %s\n", dataDir, args[0])
			return nil
		},
	}
}

func backupSocket(dataDir string) string { return filepath.Join(dataDir, "run", "backup.sock") }

// fetchBackup asks the running instance for a copy of its store.
func fetchBackup(ctx context.Context, dataDir string) (io.ReadCloser, error) {
	client := socketClient(backupSocket(dataDir))
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://gantry/", nil)
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, hint.Wrap(fmt.Errorf("reach the Gantry of %s: %w", dataDir, withoutURLs(err)), "start it with `gantry serve`, or copy state.db while it is stopped")
	}
	if resp.StatusCode != http.StatusOK {
		defer resp.Body.Close()
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 4096))
		return nil, fmt.Errorf("back up %s: %s", dataDir, text)
	}
	return resp.Body, nil
}

// startBackups answers `gantry backup` and keeps automatic copies.
func startBackups(_ context.Context, in *server) error {
	in.background("backups", func(ctx context.Context) error {
		for {
			if err := in.backUp(ctx); err != nil && ctx.Err() == nil {
				slog.Warn("no automatic backup was made; it is tried again", "err", err)
			}
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(backupEvery):
			}
		}
	})
	return in.serveSocket("backup", backupSocket(in.dataDir), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if n, err := in.store.Backup(r.Context(), w); err != nil && n == 0 {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		} else if err != nil {
			panic(http.ErrAbortHandler) // the copy is cut short, and the client must see that
		}
	}))
}

// backUp writes one automatic copy, unless the newest is recent, and removes the oldest.
func (in *server) backUp(ctx context.Context) error {
	dir := backupDir(in.dataDir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	names, err := backups(in.dataDir)
	if err != nil {
		return err
	}
	now := time.Now().UTC()
	if len(names) > 0 {
		if newest, err := time.Parse(backupName, names[len(names)-1]); err == nil && now.Sub(newest) < backupEvery {
			return nil
		}
	}
	err = atomicfile.Replace(filepath.Join(dir, now.Format(backupName)), 0o600, func(w io.Writer) error {
		_, err := in.store.Backup(ctx, w)
		return err
	})
	if err != nil {
		return err
	}
	for len(names) >= backupsKept {
		if err := os.Remove(filepath.Join(dir, names[0])); err != nil {
			return err
		}
		names = names[1:]
	}
	return nil
}

func backupDir(dataDir string) string { return filepath.Join(dataDir, "backups") }

// backups lists the automatic copies, oldest first.
func backups(dataDir string) ([]string, error) {
	entries, err := os.ReadDir(backupDir(dataDir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var names []string
	for _, e := range entries {
		if _, err := time.Parse(backupName, e.Name()); err == nil {
			names = append(names, e.Name())
		}
	}
	slices.Sort(names)
	return names, err
}

// restoreHint adds the command that restores the newest copy to the error of a
// damaged store.
func restoreHint(err error, dataDir string) error {
	var corrupt *store.CorruptError
	if !errors.As(err, &corrupt) {
		return err
	}
	names, listErr := backups(dataDir)
	if listErr != nil || len(names) == 0 {
		return hint.Wrap(err, "restore a copy that `gantry backup` made: put it in place of %s", corrupt.Path)
	}
	return hint.Wrap(err, "restore the newest copy: mv %s %s.damaged && cp %s %s", corrupt.Path, corrupt.Path,
		filepath.Join(backupDir(dataDir), names[len(names)-1]), corrupt.Path)
}
