package ctl

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/telemetry"
)

// tool is what the commands share.
type tool struct {
	// connection is as the flags say it.
	connection           connection
	configFile, logLevel string
	// context is the connection of the current context, with what the flags say otherwise; contextErr is why there
	// is none.
	context    connection
	contextErr error
	log        *slog.Logger

	mesh   string
	output string
	table  *resource.Table
	now    func() time.Time
}

// AddCommands gives a root command the flags and commands of meridianctl, and others besides. Its own command
// version is replaced by one that also knows the control plane's.
func AddCommands(root *cobra.Command, others ...*cobra.Command) {
	t := &tool{table: resource.NewTable(), now: time.Now, log: slog.New(slog.DiscardHandler)}
	f := root.PersistentFlags()
	f.StringVar(&t.configFile, "config-file", "", "configuration file (default ~/.meridian/config, else ~/.kumactl/config is read)")
	f.StringVar(&t.logLevel, "log-level", "off", "what to log to stderr: off, error, warn, info or debug (each request)")
	completes(root, "log-level", "off", "error", "warn", "info", "debug")
	f.StringVar(&t.connection.address, "address", "", "the control plane's REST API (default: that of the current context; where there is none, http://localhost:5681)")
	f.StringVar(&t.connection.caCertFile, "ca-cert-file", "", "file of the CA that the control plane is verified with (default: the system's)")
	f.StringVar(&t.connection.clientCertFile, "client-cert-file", "", "client certificate to show")
	f.StringVar(&t.connection.clientKeyFile, "client-key-file", "", "key of --client-cert-file")
	f.BoolVar(&t.connection.skipVerify, "skip-verify", false, "do not verify the control plane's certificate")
	f.StringVar(&t.connection.userTokenFile, "user-token-file", os.Getenv("MERIDIAN_USER_TOKEN_FILE"), "file of the user token to send, over https only (or MERIDIAN_USER_TOKEN_FILE)")
	f.StringVarP(&t.mesh, "mesh", "m", "default", "mesh of the resources")
	for _, c := range root.Commands() {
		if c.Name() == "version" {
			root.RemoveCommand(c)
		}
	}
	root.AddCommand(t.config(), t.get(), t.apply(), t.delete(), t.inspect(), t.wait(), t.generate(), t.manage(), t.revoke(),
		t.backup(), t.export(), t.install(), uninstall(), t.version())
	root.AddCommand(others...)
	root.CompletionOptions.HiddenDefaultCmd = false
	root.Args = noSuchCommand
	root.PersistentPreRunE = t.prepare
	refuseUsage(root)
}

// prepare completes what the flags say by the current context.
func (t *tool) prepare(c *cobra.Command, _ []string) error {
	log, err := telemetry.NewLogger(c.ErrOrStderr(), t.logLevel)
	if err != nil {
		return usagef("--log-level: %w", err)
	}
	t.log = log
	c.SetOut(visible{c.OutOrStdout()})
	c.SetErr(visible{c.ErrOrStderr()})
	if t.connection.address == "" {
		// Commands that speak with no control plane need none.
		t.contextErr = t.useContext(c)
	}
	return nil
}

func (t *tool) useContext(c *cobra.Command) error {
	s, err := readSettings(t.configFile)
	if err != nil {
		return err
	}
	at, mesh, err := s.current()
	if err != nil {
		return err
	}
	if mesh != "" && !c.Flags().Changed("mesh") {
		t.mesh = mesh
	}
	t.context = t.connection.over(at)
	return nil
}

// with runs f with a client that is closed afterwards. It says first if the control plane is another than expected.
func (t *tool) with(c *cobra.Command, f func(*client) error) error {
	at, err := t.target()
	if err != nil {
		return err
	}
	cp, err := t.open(at)
	if err != nil {
		return err
	}
	defer cp.close()
	cp.warnIfForeign(c.Context(), c.ErrOrStderr())
	return f(cp)
}

// target says where to, and as whom.
func (t *tool) target() (connection, error) {
	if t.connection.address != "" {
		return t.connection, nil
	}
	return t.context, t.contextErr
}

func (t *tool) open(at connection) (*client, error) {
	cp, err := at.open()
	if err == nil {
		cp.log = t.log
	}
	return cp, err
}

func (t *tool) outputFlag(c *cobra.Command) *cobra.Command {
	c.Flags().StringVarP(&t.output, "output", "o", "table", "table, json or yaml")
	completes(c, "output", "table", "json", "yaml")
	return c
}

// completes lists the values of a flag of a command to shells, which would offer files otherwise.
func completes(c *cobra.Command, flag string, values ...string) {
	_ = c.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp))
}

// kind finds a kind by any of its names, with or without dashes; plural tells whether the name was that of the
// collection.
func (t *tool) kind(name string) (d *resource.Descriptor, plural bool, err error) {
	plain := func(name string) string { return strings.ReplaceAll(strings.ToLower(name), "-", "") }
	asked := plain(name)
	for _, d := range t.table.All() {
		if d.Access == resource.Internal {
			continue
		}
		if asked == plain(d.Singular) || asked == plain(string(d.Kind)) {
			return d, false, nil
		}
		for _, p := range append([]string{d.Plural}, d.Aliases...) {
			if asked == plain(p) {
				return d, true, nil
			}
		}
	}
	return nil, false, usagef("unknown type %q; there are %s", name, strings.Join(t.kinds(), ", "))
}

func (t *tool) kinds() []string {
	var names []string
	for _, d := range t.table.All() {
		if d.Access != resource.Internal {
			names = append(names, d.Singular)
		}
	}
	return names
}

// collection is the path of a kind's list; an item's is one name longer.
func collection(d *resource.Descriptor, mesh string) []string {
	if d.Scope == resource.ScopeMesh {
		return []string{"meshes", url.PathEscape(mesh), d.Plural}
	}
	return []string{d.Plural}
}

func item(d *resource.Descriptor, mesh, name string) []string {
	return append(collection(d, mesh), url.PathEscape(name))
}

func (t *tool) completeKinds(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return t.kinds(), cobra.ShellCompDirectiveNoFileComp
}

func (t *tool) get() *cobra.Command {
	var size int
	var offset string
	var watch bool
	c := &cobra.Command{
		Use: "get TYPE [NAME]", Short: "Show a resource, or all of a type", Args: cobra.RangeArgs(1, 2), ValidArgsFunction: t.completeKinds,
		RunE: func(c *cobra.Command, args []string) error {
			d, plural, err := t.kind(args[0])
			if err != nil {
				return err
			}
			return t.with(c, func(cp *client) error {
				if watch {
					return t.watch(c, cp, d, args[1:])
				}
				if len(args) == 2 {
					a, err := cp.do(c.Context(), http.MethodGet, item(d, t.mesh, args[1]), nil, "", nil)
					if err != nil {
						return err
					}
					return printItem(c.OutOrStdout(), t.output, a.body)
				}
				if !plural {
					return fmt.Errorf("get %s: give a name, or ask for all: get %s", args[0], d.Plural)
				}
				query := url.Values{}
				if offset != "" {
					query.Set("offset", offset)
				}
				read := cp.all
				if c.Flags().Changed("size") {
					query.Set("size", strconv.Itoa(size))
					read = cp.page
				}
				l, err := read(c.Context(), collection(d, t.mesh), query)
				if err != nil {
					return err
				}
				return t.printList(c.OutOrStdout(), l, d)
			})
		},
	}
	c.Flags().IntVar(&size, "size", 0, "show one page of so many (default: all)")
	c.Flags().StringVar(&offset, "offset", "", "where the page begins, as the one before says")
	c.Flags().BoolVarP(&watch, "watch", "w", false, "show what there is and then what changes, until interrupted")
	c.MarkFlagsMutuallyExclusive("watch", "size")
	c.MarkFlagsMutuallyExclusive("watch", "offset")
	return t.outputFlag(c)
}

func (t *tool) delete() *cobra.Command {
	return &cobra.Command{
		Use: "delete TYPE NAME", Short: "Delete a resource", Args: named(2), ValidArgsFunction: t.completeKinds,
		RunE: func(c *cobra.Command, args []string) error {
			d, _, err := t.kind(args[0])
			if err != nil {
				return err
			}
			return t.with(c, func(cp *client) error {
				a, err := cp.do(c.Context(), http.MethodDelete, item(d, t.mesh, args[1]), nil, "", nil)
				if err != nil {
					return err
				}
				return report(c.OutOrStdout(), d, t.mesh, args[1], "deleted", a)
			})
		},
	}
}

// report says what was done, and with which revision.
func report(out io.Writer, d *resource.Descriptor, mesh, name, what string, a answer) error {
	key := resource.Key{Kind: d.Kind, Name: name}
	if d.Scope == resource.ScopeMesh {
		key.Scope = mesh
	}
	if revision := a.header.Get("Meridian-Revision"); revision != "" {
		what += ", revision " + revision
	}
	_, err := fmt.Fprintf(out, "%s %s\n", key, what)
	return err
}

func (t *tool) generate() *cobra.Command {
	return group("generate", "Make tokens, their keys, and certificates",
		t.zoneToken(), t.dataplaneToken(), t.userToken(), t.signingKey(), t.tlsCertificate())
}

func (t *tool) zoneToken() *cobra.Command {
	var zone string
	var validFor time.Duration
	c := &cobra.Command{
		Use: "zone-token", Short: "Make a token with which a zone joins the global control plane", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return t.token(c, []string{"tokens", "zone"}, struct {
				Zone     string `json:"zone"`
				ValidFor string `json:"validFor"`
			}{zone, validFor.String()})
		},
	}
	c.Flags().StringVar(&zone, "zone", "", "name of the zone")
	c.Flags().DurationVar(&validFor, "valid-for", 720*time.Hour, "for how long the token holds")
	_ = c.MarkFlagRequired("zone")
	return c
}

func (t *tool) dataplaneToken() *cobra.Command {
	var name, typ string
	var tags []string
	var validFor time.Duration
	c := &cobra.Command{
		Use: "dataplane-token", Short: "Make a token with which data plane proxies connect", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			body := struct {
				Name     string              `json:"name"`
				Mesh     string              `json:"mesh"`
				Tags     map[string][]string `json:"tags"`
				Type     string              `json:"type"`
				ValidFor string              `json:"validFor,omitempty"`
			}{Name: name, Mesh: t.mesh, Tags: map[string][]string{}, Type: typ}
			for _, tag := range tags {
				key, values, ok := strings.Cut(tag, "=")
				if !ok || key == "" {
					return usagef("--tag: must be key=value,value, got %q", tag)
				}
				body.Tags[key] = append(body.Tags[key], strings.Split(values, ",")...)
			}
			if c.Flags().Changed("valid-for") {
				body.ValidFor = validFor.String()
			}
			return t.token(c, []string{"tokens"}, body)
		},
	}
	c.Flags().StringVar(&name, "name", "", "only for the proxy of this name")
	c.Flags().StringArrayVar(&tags, "tag", nil, "only for proxies whose tag has none but these values: key=value,value; may be given often")
	c.Flags().StringVar(&typ, "type", "dataplane", "dataplane or ingress")
	completes(c, "type", "dataplane", "ingress")
	c.Flags().DurationVar(&validFor, "valid-for", 87600*time.Hour, "for how long the token holds")
	return c
}

func (t *tool) token(c *cobra.Command, path []string, body any) error {
	data, err := json.Marshal(body)
	if err != nil {
		return err
	}
	return t.asAdmin(c, func(cp *client) error {
		a, err := cp.do(c.Context(), http.MethodPost, path, nil, "application/json", data)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintln(c.OutOrStdout(), strings.TrimSpace(string(a.body)))
		return err
	})
}
