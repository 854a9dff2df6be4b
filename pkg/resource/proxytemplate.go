package resource

import (
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1"
)

// importDefault is the only thing that a proxy template imports: what every proxy gets.
const importDefault = "default-proxy"

// Operations of modifications.
const (
	opAdd       = "add"
	opRemove    = "remove"
	opPatch     = "patch"
	opAddFirst  = "addFirst"
	opAddLast   = "addLast"
	opAddBefore = "addBefore"
	opAddAfter  = "addAfter"
)

func validateProxyTemplate(_ Key, m proto.Message) Violations {
	p, ok := m.(*meshv1.ProxyTemplate)
	if !ok {
		return wrongMessage(m)
	}
	var v Violations
	if len(p.GetSelectors()) > 0 {
		checkSelectors(&v, "selectors", p.GetSelectors(), anySource())
	}
	conf := p.GetConf()
	for i, name := range conf.GetImports() {
		switch name {
		case "":
			v.Add(indexPath("conf.imports", i), cannotBeEmpty)
		case importDefault:
		default:
			v.Add(indexPath("conf.imports", i), "has to be "+importDefault)
		}
	}
	for i, r := range conf.GetResources() {
		path := indexPath("conf.resources", i)
		checkNonEmpty(&v, path+".name", r.GetName())
		checkNonEmpty(&v, path+".version", r.GetVersion())
		checkNonEmpty(&v, path+".resource", r.GetResource())
		if r.GetResource() != "" {
			checkEnvoyYAML(&v, path+".resource", r.GetResource(), true)
		}
	}
	for i, x := range conf.GetModifications() {
		checkModification(&v, indexPath("conf.modifications", i), x)
	}
	return v
}

func checkModification(v *Violations, path string, m *meshv1.ProxyTemplate_Modification) {
	switch m := m.GetType().(type) {
	case *meshv1.ProxyTemplate_Modification_Cluster_:
		x := m.Cluster
		checkTopLevel(v, path+".cluster", x.GetOperation(), x.GetValue(), x.GetMatch() != nil)
	case *meshv1.ProxyTemplate_Modification_Listener_:
		x := m.Listener
		checkTopLevel(v, path+".listener", x.GetOperation(), x.GetValue(), x.GetMatch() != nil)
	case *meshv1.ProxyTemplate_Modification_NetworkFilter_:
		x := m.NetworkFilter
		checkFilter(v, path+".networkFilter", x.GetOperation(), x.GetValue(), x.GetMatch().GetName())
	case *meshv1.ProxyTemplate_Modification_HttpFilter_:
		x := m.HttpFilter
		checkFilter(v, path+".httpFilter", x.GetOperation(), x.GetValue(), x.GetMatch().GetName())
	case *meshv1.ProxyTemplate_Modification_VirtualHost_:
		x := m.VirtualHost
		if x.GetOperation() == opAdd && x.GetMatch().GetName() != "" {
			v.Add(path+".virtualHost.match.name", "cannot be defined")
		}
		checkOperation(v, path+".virtualHost", x.GetOperation(), x.GetValue(), opAdd, opRemove, opPatch)
	default:
		v.Add(path, "must have one of cluster, listener, networkFilter, httpFilter, virtualHost")
	}
}

func checkTopLevel(v *Violations, path, operation, value string, matches bool) {
	if operation == opAdd && matches {
		v.Add(path+".match", "cannot be defined")
	}
	checkOperation(v, path, operation, value, opAdd, opRemove, opPatch)
}

func checkFilter(v *Violations, path, operation, value, name string) {
	switch operation {
	case opAddBefore, opAddAfter, opPatch:
		checkNonEmpty(v, path+".match.name", name)
	}
	checkOperation(v, path, operation, value, opAddFirst, opAddLast, opAddBefore, opAddAfter, opRemove, opPatch)
}

// checkOperation looks at the operation, and at the value of all that need one.
func checkOperation(v *Violations, path, operation, value string, known ...string) {
	switch {
	case !slices.Contains(known, operation):
		v.Add(path+".operation", "has to be one of "+strings.Join(known, ", "))
	case operation == opRemove:
	case value == "":
		v.Add(path+".value", cannotBeEmpty)
	default:
		checkEnvoyYAML(v, path+".value", value, false)
	}
}

// checkEnvoyYAML asks for an object, whose type Envoy will know by its name if it must be typed. Its fields
// are looked at where it is used: they are those of the Envoy that runs.
func checkEnvoyYAML(v *Violations, path, text string, typed bool) {
	tree, err := parseYAML([]byte(text), Limits{}.withDefaults())
	switch {
	case err != nil:
		v.Add(path, "has to be an Envoy resource as YAML: "+err.Error())
		return
	case tree.shape != shapeObject:
		v.Add(path, "has to be an Envoy resource as YAML: it is "+tree.shape.String())
		return
	case !typed:
		return
	}
	const key, prefix = "@type", "type.googleapis.com/envoy."
	for _, m := range tree.members {
		if m.name == key && m.value.shape == shapeString && strings.HasPrefix(m.value.text, prefix) {
			return
		}
	}
	v.Add(path, fmt.Sprintf("has to have %q, with a value that starts with %q", key, prefix))
}
