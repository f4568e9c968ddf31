{{/*
What the backend connects to for its answers, as [{name, host, port}]: providers where their `base_url` says, or the
proxies on the way, those in `env` included.
*/}}
{{- define "dub5.providers.addresses" -}}
{{- $addresses := list }}
{{- range $name, $provider := (default dict .Values.config).providers }}
{{- if ne (default "" $provider.kind) "simulated" }}
{{- $usual := ternary "https://api.anthropic.com" "https://api.openai.com/v1" (eq (default "" $provider.kind) "anthropic") }}
{{- $proxy := ternary "" (default "" $provider.proxy) (eq (lower (default "" $provider.proxy)) "none") }}
{{- $where := dict "name" (printf "config.providers.%s" $name) "url" (default (default $usual $provider.base_url) $proxy) }}
{{- $addresses = append $addresses (include "dub5.address" $where | fromJson) }}
{{- end }}
{{- end }}
{{- if $addresses }}
{{- range $name, $value := .Values.env }}
{{- if and (has (lower $name) (list "https_proxy" "http_proxy" "all_proxy")) $value }}
{{- $addresses = append $addresses (include "dub5.address" (dict "name" (printf "env.%s" $name) "url" $value) | fromJson) }}
{{- end }}
{{- end }}
{{- end }}
{{- toJson $addresses }}
{{- end }}

{{/* Takes {name, url}, gives {name, host, port}. */}}
{{- define "dub5.address" -}}
{{- $authority := regexReplaceAll "^[A-Za-z0-9]+://" (toString .url) "" | splitList "/" | first | splitList "?" | first | splitList "@" | last }}
{{- $port := default (ternary "443" "80" (hasPrefix "https://" (toString .url | lower))) (regexFind ":[0-9]+$" $authority | trimPrefix ":") }}
{{- dict "name" .name "host" (regexReplaceAll ":[0-9]+$" $authority "" | lower) "port" (int $port) | toJson }}
{{- end }}

{{/* Those among them that may be Services of this cluster, to judge by the name. */}}
{{- define "dub5.providers.inside" -}}
{{- $inside := list }}
{{- range include "dub5.providers.addresses" . | fromJsonArray }}
{{- if or (regexMatch "^[a-z0-9-]+([.][a-z0-9-]+)?$" .host) (regexMatch "[.]svc([.]|$)" .host) }}
{{- $inside = append $inside . }}
{{- end }}
{{- end }}
{{- toJson $inside }}
{{- end }}

{{/* Their ports, each once. */}}
{{- define "dub5.ports" -}}
{{- $ports := list }}
{{- range . }}{{ $ports = append $ports (int .port) }}{{ end }}
{{- range uniq $ports }}
- {protocol: TCP, port: {{ . }}}
{{- end }}
{{- end }}

{{/* To providers: by the rules that are set, or at the ports that the configuration names. */}}
{{- define "dub5.egress.providers" -}}
{{- if .Values.networkPolicy.providers }}
{{- toYaml .Values.networkPolicy.providers }}
{{- else }}
{{- with include "dub5.providers.addresses" . | fromJsonArray | default (list (dict "port" 443)) }}
- to:
    # Any address but the link-local ones, where clouds keep their metadata.
    - ipBlock: {cidr: 0.0.0.0/0, except: [169.254.0.0/16]}
    - ipBlock: {cidr: "::/0", except: ["fe80::/10"]}
  ports: {{ include "dub5.ports" . | nindent 4 }}
{{- end }}
{{- with include "dub5.providers.inside" . | fromJsonArray }}
# Pods, which some network plugins do not count among the addresses.
- to:
    - namespaceSelector: {}
  ports: {{ include "dub5.ports" . | nindent 4 }}
{{- end }}
{{- end }}
{{- end }}

{{/* What the rules that are set do not let through, as `name (port)`, by their ports. */}}
{{- define "dub5.providers.shut" -}}
{{- $open := list }}
{{- $any := not .Values.networkPolicy.enabled }}
{{- range .Values.networkPolicy.providers }}
{{- if not .ports }}{{ $any = true }}{{ end }}
{{- range .ports }}
{{- if or .endPort (not .port) (kindIs "string" .port) }}{{ $any = true }}{{ else }}{{ $open = append $open (int .port) }}{{ end }}
{{- end }}
{{- end }}
{{- $shut := list }}
{{- if and .Values.networkPolicy.providers (not $any) }}
{{- range include "dub5.providers.addresses" . | fromJsonArray }}
{{- if not (has (int .port) $open) }}{{ $shut = append $shut (printf "%s (port %d)" .name (int .port)) }}{{ end }}
{{- end }}
{{- end }}
{{- join ", " $shut }}
{{- end }}
