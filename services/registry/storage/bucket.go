package storage

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/opencontainers/go-digest"
)

// Bucket keeps content in objects of an S3 bucket, in the layout that a disk has below a
// prefix: where distribution's S3 driver with that prefix as its root directory puts it.
// One process may use a prefix at a time.
type Bucket struct {
	client minio.Core
	plain  bool // not over TLS
	name   string
	prefix string // "" or ends in "/"
}

var _ files = (*Bucket)(nil)

// defaultEndpoint is Amazon's.
const defaultEndpoint = "https://s3.amazonaws.com"

// NewBucket reads s3://BUCKET[/PREFIX][?endpoint=URL][&region=NAME]. Without an endpoint it
// is Amazon's. It does not contact it.
//
// Credentials are never part of the address. They are looked for, each time that they
// expire, in AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, then in the
// file that AWS_SHARED_CREDENTIALS_FILE names, else ~/.aws/credentials, then the machine's
// or the pod's role is asked for.
func NewBucket(address string) (*Bucket, error) {
	u, err := url.Parse(address)
	if err != nil {
		return nil, errors.New("the address of the bucket is no URL such as s3://bucket/prefix?endpoint=https://host:9000") // not the text: it may have a secret
	}
	if u.User != nil {
		return nil, errors.New("the address of the bucket has credentials: leave them out and set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_SHARED_CREDENTIALS_FILE")
	}
	if u.Scheme != "s3" || u.Host == "" || u.Fragment != "" {
		return nil, fmt.Errorf("%q is not an address such as s3://bucket/prefix?endpoint=https://host:9000", address)
	}
	query := u.Query()
	for name := range query {
		if name != "endpoint" && name != "region" {
			return nil, fmt.Errorf("the address of the bucket has the unknown parameter %q: known are endpoint and region", name)
		}
	}
	endpoint := defaultEndpoint
	if text := query.Get("endpoint"); text != "" {
		endpoint = text
	}
	at, err := url.Parse(endpoint)
	if err != nil || at.Host == "" || at.Scheme != "https" && at.Scheme != "http" || strings.Trim(at.Path, "/") != "" || at.User != nil {
		return nil, errors.New("the endpoint of the bucket is not an address such as https://host:9000")
	}
	client, err := minio.NewCore(at.Host, &minio.Options{
		Creds: credentials.NewChainCredentials([]credentials.Provider{
			&credentials.EnvAWS{}, &credentials.FileAWSCredentials{},
			&credentials.IAM{Client: &http.Client{Transport: http.DefaultTransport}},
		}),
		Secure: at.Scheme == "https", Region: query.Get("region"),
	})
	if err != nil {
		return nil, fmt.Errorf("bucket %s at %s: %w", u.Host, at.Host, err)
	}
	client.SetAppInfo("gantry", "1")
	b := &Bucket{client: *client, plain: at.Scheme == "http", name: u.Host}
	if prefix := strings.Trim(path.Clean("/"+u.Path), "/"); prefix != "" {
		b.prefix = prefix + "/"
	}
	return b, nil
}

// layout is below the prefix, as distribution has it.
const layout = "docker/registry/v2/"

func (b *Bucket) key(path string) string { return b.prefix + layout + path }

// String is the address without the endpoint.
func (b *Bucket) String() string { return "s3://" + b.name + "/" + strings.TrimSuffix(b.prefix, "/") }

// explain makes an answer of the server one of ours.
func (b *Bucket) explain(verb string, err error) error {
	if err == nil {
		return nil
	}
	answer := minio.ToErrorResponse(err)
	if answer.Code == minio.NoSuchKey || answer.StatusCode == http.StatusNotFound && answer.Code != minio.NoSuchBucket {
		return fs.ErrNotExist
	}
	return fmt.Errorf("%s bucket %s: %w", verb, b.name, err)
}

func (b *Bucket) stat(path string) (info, error) {
	o, err := b.client.StatObject(context.Background(), b.name, b.key(path), minio.StatObjectOptions{})
	return info{o.Size, o.LastModified}, b.explain("read from", err)
}

func (b *Bucket) open(path string) (Content, error) {
	i, err := b.stat(path)
	return &object{bucket: b, key: b.key(path), size: i.size}, err
}

func (b *Bucket) read(path string) ([]byte, error) {
	body, _, _, err := b.client.GetObject(context.Background(), b.name, b.key(path), minio.GetObjectOptions{})
	if err != nil {
		return nil, b.explain("read from", err)
	}
	defer body.Close()
	content, err := io.ReadAll(body)
	return content, b.explain("read from", err)
}

func (b *Bucket) link(path string, d digest.Digest) error {
	return b.put(path, strings.NewReader(d.String()), int64(len(d)))
}

// partSize is how much is sent at once; more goes in parts, a few at a time.
const partSize = 16 << 20

func (b *Bucket) put(path string, content io.ReadSeeker, size int64) error {
	opt := minio.PutObjectOptions{ContentType: "application/octet-stream", PartSize: partSize, DisableContentSha256: true}
	if size > partSize {
		opt.SendContentMd5 = b.plain // what is changed on the way is refused
		_, err := b.client.Client.PutObject(context.Background(), b.name, b.key(path), content, size, opt)
		return b.explain("write to", err)
	}
	hash := sha256.New() // the server refuses what arrives otherwise
	if _, err := io.Copy(hash, content); err != nil {
		return err
	}
	if _, err := content.Seek(0, io.SeekStart); err != nil {
		return err
	}
	_, err := b.client.PutObject(context.Background(), b.name, b.key(path), content, size, "", hex.EncodeToString(hash.Sum(nil)), opt)
	return b.explain("write to", err)
}

func (b *Bucket) place(local, path string) error {
	f, err := os.Open(local)
	if err != nil {
		return err
	}
	defer f.Close()
	i, err := f.Stat()
	if err != nil {
		return err
	}
	if err := b.put(path, f, i.Size()); err != nil {
		return err
	}
	return os.Remove(local)
}

func (b *Bucket) remove(path string) error {
	err := b.client.RemoveObject(context.Background(), b.name, b.key(path), minio.RemoveObjectOptions{})
	if err = b.explain("remove from", err); notExist(err) {
		return nil
	}
	return err
}

func (b *Bucket) removeAll(dir string) error {
	return b.list(dir, true, func(o minio.ObjectInfo) error {
		return b.remove(strings.TrimPrefix(o.Key, b.key("")))
	})
}

// list calls yield for what is below a directory, or directly in it.
func (b *Bucket) list(dir string, below bool, yield func(minio.ObjectInfo) error) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel() // of what is listed meanwhile
	for o := range b.client.ListObjectsIter(ctx, b.name, minio.ListObjectsOptions{Prefix: b.key(dir) + "/", Recursive: below}) {
		if o.Err != nil {
			return b.explain("list", o.Err)
		}
		if err := yield(o); err != nil {
			return err
		}
	}
	return nil
}

func (b *Bucket) children(dir string) (names []string, err error) {
	err = b.list(dir, false, func(o minio.ObjectInfo) error {
		if name, ok := strings.CutSuffix(o.Key, "/"); ok {
			names = append(names, path.Base(name))
		}
		return nil
	})
	slices.Sort(names)
	return names, err
}

func (b *Bucket) each(dir, leaf string, yield func(name string, i info) error) error {
	return b.list(dir, true, func(o minio.ObjectInfo) error {
		name, ok := strings.CutSuffix(strings.TrimPrefix(o.Key, b.key(dir)+"/"), "/"+leaf)
		if !ok || strings.Contains(name, "/") {
			return nil
		}
		return yield(name, info{o.Size, o.LastModified})
	})
}

// prune has nothing to do: a bucket has no directories.
func (b *Bucket) prune(string) error { return nil }

// sync has nothing to do: what the server has taken is kept.
func (b *Bucket) sync() error { return nil }

// object is content of a known size in a bucket. It is asked for at the first Read, from
// there on.
type object struct {
	bucket *Bucket
	key    string
	size   int64
	offset int64
	body   io.ReadCloser // of what follows offset, or nil
}

func (o *object) Read(p []byte) (int, error) {
	if o.offset >= o.size {
		return 0, io.EOF
	}
	if o.body == nil {
		opt := minio.GetObjectOptions{}
		if o.offset > 0 {
			if err := opt.SetRange(o.offset, 0); err != nil {
				return 0, err
			}
		}
		body, _, _, err := o.bucket.client.GetObject(context.Background(), o.bucket.name, o.key, opt)
		if err != nil {
			return 0, o.bucket.explain("read from", err)
		}
		o.body = body
	}
	n, err := o.body.Read(p)
	o.offset += int64(n)
	if errors.Is(err, io.EOF) && o.offset < o.size {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

func (o *object) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += o.offset
	case io.SeekEnd:
		offset += o.size
	}
	if offset < 0 {
		return 0, fs.ErrInvalid
	}
	if offset != o.offset {
		_ = o.Close()
		o.offset = offset
	}
	return offset, nil
}

func (o *object) Close() error {
	if o.body == nil {
		return nil
	}
	err := o.body.Close()
	o.body = nil
	return err
}

var _ io.ReadSeekCloser = (*object)(nil)
