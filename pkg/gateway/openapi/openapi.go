// Package openapi writes the OpenAPI 3 document of the public API from the table of kinds, the descriptors of
// the messages and the HTTP rules, so that none of them can be forgotten in it.
package openapi

import (
	"fmt"
	"strings"

	"github.com/goccy/go-yaml"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/meridian-mesh/meridian/pkg/resource"
	apiv1 "github.com/meridian-mesh/meridian/proto/meridian/api/v1"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1"
	systemv1 "github.com/meridian-mesh/meridian/proto/meridian/system/v1"
)

// Rule is one HTTP rule: a method and a path that lead to an RPC.
type Rule struct {
	// Selector is the full name of the RPC.
	Selector string
	// Method is in lower case, as OpenAPI has it.
	Method, Path string
}

type rule struct {
	Selector string `yaml:"selector"`
	Get      string `yaml:"get"`
	Put      string `yaml:"put"`
	Post     string `yaml:"post"`
	Delete   string `yaml:"delete"`
	Body     string `yaml:"body"`
	More     []rule `yaml:"additional_bindings"`
}

// Rules reads the HTTP rules of the API's service configuration.
func Rules(config []byte) ([]Rule, error) {
	var file struct {
		Type    string `yaml:"type"`
		Version int    `yaml:"config_version"`
		HTTP    struct {
			Rules []rule `yaml:"rules"`
		} `yaml:"http"`
	}
	if err := yaml.UnmarshalWithOptions(config, &file, yaml.Strict()); err != nil {
		return nil, fmt.Errorf("HTTP rules: %w", err)
	}
	var out []Rule
	for _, r := range file.HTTP.Rules {
		for _, b := range append([]rule{r}, r.More...) {
			for method, path := range map[string]string{"get": b.Get, "put": b.Put, "post": b.Post, "delete": b.Delete} {
				if path != "" {
					out = append(out, Rule{r.Selector, method, path})
				}
			}
		}
	}
	return out, nil
}

type object = map[string]any

type document struct {
	table   *resource.Table
	paths   object
	schemas object
}

// Document gives the whole document as YAML.
func Document(t *resource.Table, rules []Rule) ([]byte, error) {
	d := &document{table: t, paths: object{}, schemas: object{}}
	d.common()
	for _, r := range rules {
		if err := d.rule(r); err != nil {
			return nil, fmt.Errorf("%s %s: %w", r.Method, r.Path, err)
		}
	}
	for path, what := range map[string]object{
		"/backup": operation("Streams a copy of all that this control plane keeps, at one revision. Secrets in it are encrypted.", nil, object{"200": object{
			"description": "The backup, whose end says that it is whole.", "content": object{"application/octet-stream": object{"schema": object{"type": "string", "format": "binary"}}},
		}}),
		"/export": operation("Streams what users wrote, at one revision, as JSON documents one after the other.", []any{object{
			"name": "secrets", "in": "query", "schema": object{"type": "boolean"}, "description": "Also what only administrators may read, in plain.",
		}}, object{"200": object{
			"description": "The documents, in an order in which they can be written.", "content": object{"application/json": object{"schema": object{"type": "object"}}},
		}}),
	} {
		what["responses"].(object)["403"] = text("The caller is no administrator.")
		d.add("get", path, what)
	}
	d.add("get", "/openapi.yaml", operation("Returns this document.", nil, object{"200": object{
		"description": "The document.", "content": object{"application/yaml": object{"schema": object{"type": "object"}}},
	}}))
	return yaml.MarshalWithOptions(yaml.MapSlice{
		{Key: "openapi", Value: "3.0.3"},
		{Key: "info", Value: yaml.MapSlice{
			{Key: "title", Value: "Meridian"},
			{Key: "version", Value: "v1"},
			{Key: "description", Value: "The API of Meridian's control planes. Which kinds a control plane takes depends on what it is: policies are written on the global one, dataplanes on that of their zone; 405 says which one to use."},
		}},
		{Key: "paths", Value: d.paths},
		{Key: "components", Value: object{"schemas": d.schemas, "parameters": parameters()}},
	}, yaml.Indent(1), yaml.UseLiteralStyleIfMultiline(true))
}

func (d *document) add(method, path string, op object) {
	item, ok := d.paths[path].(object)
	if !ok {
		item = object{}
		d.paths[path] = item
	}
	item[method] = op
}

// rule adds what one HTTP rule stands for: one path, or one for each kind.
func (d *document) rule(r Rule) error {
	service, method, ok := cutLast(r.Selector, ".")
	if !ok {
		return fmt.Errorf("bad selector %q", r.Selector)
	}
	if service == string(apiv1.File_meridian_api_v1_resource_proto.Services().ByName("ResourceService").FullName()) {
		if method == "Batch" {
			d.batch(r)
			return nil
		}
		d.generic(r, method)
		return nil
	}
	return d.typed(r)
}

func cutLast(s, sep string) (before, after string, ok bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

func (d *document) generic(r Rule, method string) {
	inMesh := strings.Contains(r.Path, "{scope}")
	for _, k := range d.table.All() {
		if k.Access == resource.Internal {
			continue
		}
		ofMesh := k.Scope == resource.ScopeMesh
		// A kind of a mesh is listed over all meshes too.
		if inMesh && !ofMesh || !inMesh && ofMesh && method != "List" {
			continue
		}
		if k.Writable == resource.WritableNowhere && method != "List" && method != "Get" {
			continue
		}
		d.schemas[string(k.Kind)] = k.Schema()
		path := strings.NewReplacer("{plural}", k.Plural, "{scope}", "{mesh}").Replace(r.Path)
		params := pathParams(path)
		ref := schema(string(k.Kind))
		var op object
		switch method {
		case "List":
			where := ""
			if ofMesh && inMesh {
				where = " of a mesh"
			} else if ofMesh {
				where = " of all meshes"
			}
			op = operation(fmt.Sprintf("Lists the %s%s.", k.Plural, where), append(params, reference("size"), reference("offset"), reference("watch"), reference("after"), reference("lastEventID"), reference("minRevision")), watched(answers(list(ref), 400, 503)))
		case "Get":
			op = operation(fmt.Sprintf("Returns one %s. %s", k.Kind, k.Doc), append(params, reference("status"), reference("watch"), reference("after"), reference("lastEventID"), reference("minRevision")), watched(answers(ref, 400, 404, 503)))
			if k.Kind == resource.KindMesh {
				op["description"] = "Watched, it is the mesh with all that belongs to it."
			}
		case "Put":
			op = operation(fmt.Sprintf("Creates or replaces one %s.", k.Kind), append(params, conditions()...), conditional(written("201", "200")))
			op["responses"].(object)["200"].(object)["content"] = object{"application/json": object{"schema": ref}}
			op["responses"].(object)["201"].(object)["content"] = object{"application/json": object{"schema": ref}}
			op["requestBody"] = object{"required": true, "content": object{
				"application/json": object{"schema": ref}, "application/yaml": object{"schema": ref},
			}}
		case "Delete":
			op = operation(fmt.Sprintf("Deletes one %s.", k.Kind), append(params, conditions()...), conditional(written("200")))
		}
		op["tags"] = []string{string(k.Kind)}
		if k.Access == resource.Admin {
			op["description"] = "For administrators only."
			op["responses"].(object)["403"] = text("The caller is no administrator.")
		}
		d.add(r.Method, path, op)
	}
}

// batch adds the write of many resources.
func (d *document) batch(r Rule) {
	var one []object
	for _, k := range d.table.All() {
		if k.Access != resource.Internal && k.Writable != resource.WritableNowhere {
			d.schemas[string(k.Kind)] = k.Schema()
			one = append(one, schema(string(k.Kind)))
		}
	}
	text := object{"type": "string"}
	key := object{"type": text, "mesh": text, "name": text}
	deleted := object{"type": "object", "required": []string{"type", "name"}, "properties": key, "additionalProperties": false}
	d.schemas["Batch"] = object{"type": "object", "additionalProperties": false, "properties": object{
		"put": object{"type": "array", "items": object{"oneOf": one}}, "delete": object{"type": "array", "items": deleted},
	}}
	d.schemas["BatchResult"] = object{"type": "object", "required": []string{"revision", "results"}, "properties": object{
		"revision": object{"type": "string", "pattern": "^[0-9]+$"},
		"results": object{"type": "array", "items": object{"type": "object", "required": []string{"type", "name", "result"}, "properties": object{
			"type": text, "mesh": text, "name": text,
			"result": object{"type": "string", "enum": []string{"created", "updated", "unchanged", "deleted"}},
		}}},
	}}
	responses := written("200")
	responses["200"].(object)["content"] = object{"application/json": object{"schema": schema("BatchResult")}}
	op := operation("Puts and deletes many resources at one revision, or none of them. What is wrong with an item is told below put[i] or delete[i].", []any{reference("dryRun")}, responses)
	op["requestBody"] = object{"required": true, "content": object{
		"application/json": object{"schema": schema("Batch")},
		"application/yaml": object{"schema": object{"type": "string", "description": "YAML documents, each a resource or delete: {type, mesh, name}."}},
	}}
	op["tags"] = []string{"Batch"}
	d.add(r.Method, r.Path, op)
}

// watched adds the answer to a watch.
func watched(responses object) object {
	responses["200"].(object)["content"].(object)["text/event-stream"] = object{"schema": object{
		"type": "string", "description": "With watch=true: events put, delete, synced and reset, each with its JSON as data and an id to go on after.",
	}}
	responses["406"] = text("The client does not accept what there is.")
	responses["429"] = json("Too many watches are open.", schema("Error"))
	return responses
}

// conditions are the parameters of every write of one resource.
func conditions() []any {
	return []any{reference("ifMatch"), reference("ifNoneMatch"), reference("dryRun")}
}

// conditional adds the answer to a write whose conditions do not hold.
func conditional(responses object) object {
	responses["412"] = json("If-Match or If-None-Match does not hold.", schema("Error"))
	return responses
}

// typed adds a rule of one of the other services.
func (d *document) typed(r Rule) error {
	desc, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(r.Selector))
	if err != nil {
		return err
	}
	rpc, ok := desc.(protoreflect.MethodDescriptor)
	if !ok {
		return fmt.Errorf("%s is no method", r.Selector)
	}
	params := pathParams(r.Path)
	for i := range rpc.Input().Fields().Len() {
		name := string(rpc.Input().Fields().Get(i).Name())
		if name != "body" && name != "named" && !strings.Contains(r.Path, "{"+name+"}") && name != "mesh" {
			params = append(params, reference(name))
		}
	}
	var op object
	switch m := string(rpc.Name()); m {
	case "IssueDataplaneToken":
		op = issue("Issues a dataplane token.", object{
			"name": object{"type": "string"}, "mesh": object{"type": "string"}, "type": object{"type": "string", "enum": []string{"", "dataplane", "ingress"}},
			"tags":     object{"type": "object", "additionalProperties": object{"type": "array", "items": object{"type": "string"}}},
			"validFor": object{"type": "string", "format": "duration", "default": "87600h"},
		}, "mesh")
	case "IssueZoneToken":
		op = issue("Issues a zone token; on the global control plane only.", object{
			"zone": object{"type": "string"}, "validFor": object{"type": "string", "format": "duration", "default": "720h"},
		}, "zone")
	case "IssueUserToken":
		op = issue("Issues a user token; not on a zone control plane that has joined a global one.", object{
			"name": object{"type": "string"}, "role": object{"type": "string", "enum": []string{"admin", "writer"}},
			"validFor": object{"type": "string", "format": "duration", "default": "720h"},
		}, "name", "role")
	case "GenerateSigningKey":
		op = issue("Makes the next key for tokens of one use.", object{
			"use": object{"type": "string", "enum": []string{"zone", "user", "dataplane"}}, "mesh": object{"type": "string"},
		}, "use")
		op["responses"].(object)["200"] = json("The key's secret and its id.", message(&apiv1.GenerateSigningKeyResponse{}))
	case "GetInfo":
		op = operation("Names the control plane; watched, it stands for all resources.", []any{reference("watch"), reference("after"), reference("lastEventID")}, watched(answers(message(&apiv1.GetInfoResponse{}))))
	case "GetConfig":
		op = operation("Returns the control plane's configuration, without secrets.", nil, answers(object{"type": "object"}))
	case "GetVersions":
		op = operation("Tells which versions of data plane proxies go with which Envoy.", nil, answers(message(&apiv1.GetVersionsResponse{})))
	case "GetCatalog":
		op = operation("Tells clients of older documents where the other ports are; an empty URL is not served.", nil, answers(message(&apiv1.GetCatalogResponse{})))
	case "ListProvidedCertificates":
		op = d.providedCA("Lists the CA that the mesh has from its user.", params)
		op["responses"].(object)["200"] = json("One at most.", object{"type": "array", "items": message(&apiv1.ProvidedCertificate{})})
	case "AddProvidedCertificate":
		op = d.providedCA("Gives the mesh a CA, for its mTLS backend \"provided\".", params)
		op["responses"].(object)["200"] = json("Done.", message(&apiv1.ProvidedCertificate{}))
		op["requestBody"] = object{"required": true, "content": object{"application/json": object{"schema": object{
			"type": "object", "additionalProperties": false, "required": []string{"cert", "key"},
			"properties": object{"cert": object{"type": "string", "description": "PEM"}, "key": object{"type": "string", "description": "PEM"}},
		}}}}
	case "DeleteProvidedCertificate":
		op = d.providedCA("Takes the CA of the mesh away, unless its mutual TLS rests on it.", params)
	case "ListZoneStatus":
		op = operation("Tells which zones are there.", append(params, reference("minRevision")), answers(object{"type": "array", "items": message(&apiv1.ZoneStatus{})}, 503))
	case "GetZoneOverview", "ListZoneOverviews":
		op = d.overview(params, m, "ZoneOverview", object{"zone": message(&systemv1.Zone{}), "zoneInsight": message(&systemv1.ZoneInsight{}), "position": schema("ZonePosition")})
	case "GetDataplaneOverview", "ListDataplaneOverviews":
		op = d.overview(params, m, "DataplaneOverview", object{"dataplane": message(&meshv1.Dataplane{}), "dataplaneInsight": message(&meshv1.DataplaneInsight{}), "position": schema("ProxyPosition")})
	case "GetMeshInsight", "ListMeshInsights":
		op = d.overview(params, m, "MeshInsight", object{
			"lastSync": message(&meshv1.MeshInsight{})["properties"].(object)["lastSync"], "dataplanes": message(&meshv1.MeshInsight_DataplaneStat{}),
			"policies":   object{"type": "object", "additionalProperties": message(&meshv1.MeshInsight_PolicyStat{})},
			"dpVersions": message(&meshv1.MeshInsight_DpVersions{}),
		})
		op["summary"] = "Sums up what was observed in a mesh, or in each."
	case "GetServiceInsight", "ListServiceInsights":
		op = d.overview(params, m, "ServiceInsight", object{
			"status":     object{"type": "string", "enum": []string{"online", "offline", "partially_degraded"}},
			"dataplanes": message(&meshv1.ServiceInsight_DataplaneStat{}),
		})
		op["summary"] = "Sums up what was observed of the proxies of a service, or of each service that has any."
	case "ListRejections":
		op = operation("Lists what control planes and proxies refused.", append(params, reference("minRevision")), answers(list(message(&apiv1.Rejection{})), 400, 503))
	case "GetPositions":
		op = operation("Tells whether a revision is live on every connected proxy, and waits for it if asked to.",
			append(params, reference("revision"), reference("wait"), reference("minRevision")), answers(message(&apiv1.GetPositionsResponse{}), 400, 503))
	default:
		return fmt.Errorf("no description for %s", m)
	}
	op["tags"] = []string{strings.TrimSuffix(string(rpc.Parent().Name()), "Service")}
	d.add(r.Method, r.Path, op)
	return nil
}

// providedCA is an operation on the CA that a mesh has from its user.
func (d *document) providedCA(summary string, params []any) object {
	op := operation(summary, params, written("200"))
	op["description"] = "For administrators only."
	return op
}

func (d *document) overview(params []any, method, name string, parts object) object {
	properties := object{
		"type": object{"type": "string", "enum": []string{name}}, "mesh": object{"type": "string"}, "name": object{"type": "string"},
		"creationTime": object{"type": "string", "format": "date-time"}, "modificationTime": object{"type": "string", "format": "date-time"},
	}
	for k, v := range parts {
		properties[k] = v
	}
	d.schemas[name] = object{"type": "object", "properties": properties}
	params = append(params, reference("minRevision"))
	if strings.HasPrefix(method, "List") {
		return operation("Lists what was configured beside what was observed of it.", params, answers(list(schema(name)), 400, 503))
	}
	return operation("Returns what was configured beside what was observed of it.", params, answers(schema(name), 404, 503))
}

// common adds the schemas that several operations share.
func (d *document) common() {
	text := object{"type": "string"}
	d.schemas["Error"] = object{
		"type": "object", "required": []string{"title", "details"},
		"properties": object{"title": text, "details": text, "causes": object{"type": "array", "items": object{
			"type": "object", "required": []string{"field", "message"}, "properties": object{"field": text, "message": text},
		}}},
	}
	decimal := object{"type": "string", "pattern": "^[0-9]+$"}
	d.schemas["ZonePosition"] = object{
		"type": "object", "description": "How far the zone has come, in revisions of the global control plane's log.",
		"properties": object{"applied": decimal, "live": decimal, "head": decimal, "lagging": decimal, "rejected": decimal},
	}
	d.schemas["ResourceStatus"] = message(&apiv1.ResourceStatus{})
	d.schemas["ProxyPosition"] = object{
		"type": "object", "description": "Up to which revision of the global control plane's log the proxy is live; 0 where it is not connected.",
		"properties": object{"live": decimal},
	}
}

func parameters() object {
	query := func(name, doc string, s object) object {
		return object{"name": name, "in": "query", "description": doc, "schema": s}
	}
	in := func(name string) object {
		return object{"name": name, "in": "path", "required": true, "schema": object{"type": "string"}}
	}
	boolean := object{"type": "string", "enum": []string{"true", "false"}}
	return object{
		"mesh":   in("mesh"),
		"name":   in("name"),
		"id":     in("id"),
		"size":   query("size", "Items on the page; 0 means 10000.", object{"type": "integer", "minimum": 0, "maximum": 10000, "default": 1000}),
		"offset": query("offset", "Taken from the next of a page, or the index of an item.", object{"type": "string"}),
		"tag":    query("tag", "KEY:VALUE, several times; one inbound or the gateway must carry them all. The value * matches any.", object{"type": "array", "items": object{"type": "string"}}),
		"status": query("status", "With the key status: the revision of the resource, whether it is live, and what control planes and proxies refuse of it (the schema ResourceStatus).", boolean),
		"watch":  query("watch", "Stream the present state and then what changes, as server-sent events. It takes no other parameter than after.", boolean),
		"after":  query("after", "The id of the last event of a watch that was taken: it goes on there.", object{"type": "string"}),
		"lastEventID": object{
			"name": "Last-Event-ID", "in": "header", "schema": object{"type": "string"}, "description": "As after, and before it.",
		},
		"dryRun": query("dryRun", "Decide everything, and store nothing; the answer to a PUT is the resource as it would be stored.", boolean),
		"ifMatch": object{
			"name": "If-Match", "in": "header", "schema": object{"type": "string"},
			"description": "Entity tags of which the resource has one, or * where there is to be one. The tag of a resource is the revision of its last change in quotes.",
		},
		"ifNoneMatch": object{
			"name": "If-None-Match", "in": "header", "schema": object{"type": "string"},
			"description": "* where there is to be no such resource, or entity tags of which it has none.",
		},
		"gateway": query("gateway", "Only gateways, or none.", boolean),
		"ingress": query("ingress", "Only ingresses, or none.", boolean),
		"revision": object{
			"name": "revision", "in": "query", "required": true, "schema": object{"type": "string", "pattern": "^[0-9]+$"},
			"description": "A revision of the global control plane, as Meridian-Revision gives it.",
		},
		"wait": query("wait", "For how long to wait until it is settled, at most 5m.", object{"type": "string", "default": "0s"}),
		"minRevision": object{
			"name": "Meridian-Min-Revision", "in": "header", "schema": object{"type": "string", "pattern": "^[0-9]+$"},
			"description": "The answer holds this revision at least; it is waited for 5 s.",
		},
	}
}

func pathParams(path string) []any {
	var out []any
	for _, name := range []string{"mesh", "name", "id"} {
		if strings.Contains(path, "{"+name+"}") {
			out = append(out, reference(name))
		}
	}
	return out
}

func reference(parameter string) object {
	return object{"$ref": "#/components/parameters/" + parameter}
}

func schema(name string) object { return object{"$ref": "#/components/schemas/" + name} }

func operation(summary string, params []any, responses object) object {
	op := object{"summary": summary, "responses": responses}
	if len(params) > 0 {
		op["parameters"] = params
	}
	return op
}

func json(doc string, s object) object {
	return object{"description": doc, "content": object{"application/json": object{"schema": s}}}
}

func text(doc string) object {
	return object{"description": doc, "content": object{"text/plain": object{"schema": object{"type": "string"}}}}
}

func list(of object) object {
	return object{"type": "object", "required": []string{"total", "items", "next"}, "properties": object{
		"total": object{"type": "integer"}, "items": object{"type": "array", "items": of},
		"next": object{"type": "string", "format": "uri", "nullable": true},
	}}
}

func failure(code int) (string, object) {
	doc := map[int]string{400: "The request is not valid.", 404: "Not found.", 503: "Not now: the revision is not here yet, or there is no space left."}[code]
	return fmt.Sprint(code), json(doc, schema("Error"))
}

func answers(ok object, codes ...int) object {
	out := object{"200": json("Done.", ok)}
	for _, c := range codes {
		k, v := failure(c)
		out[k] = v
	}
	return out
}

func written(ok ...string) object {
	out := object{
		"403": text("The caller may not write."),
		"405": text("Not on this control plane; the sentence says on which."),
		"409": json("Others changed it at the same time.", schema("Error")),
		"413": json("The resource is larger than 512 KiB.", schema("Error")),
	}
	for _, c := range []int{400, 503} {
		k, v := failure(c)
		out[k] = v
	}
	for _, code := range ok {
		out[code] = object{"description": "Done.", "headers": object{
			"Meridian-Revision": object{
				"description": "The revision that the write took, or at which a dry run was decided.", "schema": object{"type": "string", "pattern": "^[0-9]+$"},
			},
			"Meridian-Dry-Run": object{"description": "Given where nothing was stored.", "schema": object{"type": "string", "enum": []string{"true"}}},
		}}
	}
	if len(ok) == 1 {
		k, v := failure(404)
		out[k] = v
	}
	return out
}

func issue(doc string, properties object, required ...string) object {
	responses := object{"200": text("The token."), "403": text("The caller is no administrator.")}
	for _, c := range []int{400, 404} {
		k, v := failure(c)
		responses[k] = v
	}
	op := operation(doc, nil, responses)
	op["requestBody"] = object{"required": true, "content": object{"application/json": object{"schema": object{
		"type": "object", "properties": properties, "required": required, "additionalProperties": false,
	}}}}
	return op
}

// message is the schema of a message without a resource's metadata.
func message(m proto.Message) object {
	d := resource.Descriptor{New: func() proto.Message { return m }}
	s := d.Schema()
	delete(s, "description")
	properties, _ := s["properties"].(object)
	fields := m.ProtoReflect().Descriptor().Fields()
	for name := range properties {
		if fields.ByJSONName(name) == nil {
			delete(properties, name)
		}
	}
	return s
}
