{{- define "tta.modelMounts" -}}
{{- $models := .Values.models -}}
{{- $path := include "tta.modelsPath" . -}}
{{- if eq $models.source "configMap" }}
{{- range $models.configMap }}
- {name: model-{{ .model }}, mountPath: {{ printf "%s/%s" $path .model | quote }}, readOnly: true}
{{- end }}
{{- else if ne $models.source "image" }}
- name: models
  mountPath: {{ $path | quote }}
  readOnly: true
  {{- if and (eq $models.source "pvc") $models.pvc.subPath }}
  subPath: {{ $models.pvc.subPath | quote }}
  {{- end }}
{{- end }}
{{- end }}

{{- define "tta.volumes" -}}
{{- $v := .Values -}}
- name: tmp
  emptyDir: {sizeLimit: {{ $v.tmpSizeLimit }}}
{{ include "tta.modelVolumes" . }}
{{- if $v.auth.keys.secretName }}
- name: keys
  secret:
    secretName: {{ $v.auth.keys.secretName }}
    defaultMode: 0440
    items: [{key: {{ $v.auth.keys.key | quote }}, path: keys}]
{{- end }}
{{- if $v.tls.secretName }}
- name: tls
  secret:
    secretName: {{ $v.tls.secretName }}
    defaultMode: 0440
    items: [{key: tls.crt, path: tls.crt}, {key: tls.key, path: tls.key}]
{{- end }}
{{- with $v.extraVolumes }}
{{ tpl (toYaml .) $ }}
{{- end }}
{{- end }}

{{- define "tta.modelVolumes" -}}
{{- $models := .Values.models -}}
{{- if eq $models.source "pvc" }}
- name: models
  persistentVolumeClaim: {claimName: {{ $models.pvc.claimName }}, readOnly: true}
{{- else if eq $models.source "hostPath" }}
- name: models
  hostPath: {path: {{ $models.hostPath.path | quote }}, type: Directory}
{{- else if eq $models.source "configMap" }}
{{- range $models.configMap }}
- name: model-{{ .model }}
  configMap:
    name: {{ .name }}
    {{- with .items }}
    items:
      {{- toYaml . | nindent 6 }}
    {{- end }}
{{- end }}
{{- else if eq $models.source "inline" }}
- name: models
  configMap:
    name: {{ include "tta.name" . }}-models
    items:
      {{- range $model, $text := $models.inline }}
      - {key: {{ $model }}.yaml, path: {{ $model }}/tta.yaml}
      {{- end }}
{{- else if eq $models.source "fetch" }}
- name: models
  emptyDir: {sizeLimit: {{ $models.fetch.sizeLimit }}}
{{- if hasPrefix "http" $models.fetch.url }}
- name: fetch
  configMap: {name: {{ include "tta.name" . }}-fetch}
{{- end }}
{{- end }}
{{- end }}
