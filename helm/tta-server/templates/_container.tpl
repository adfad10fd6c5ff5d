{{- define "tta.serverContainer" -}}
{{- $v := .Values -}}
{{- $scheme := upper (include "tta.scheme" .) -}}
- name: server
  image: {{ include "tta.image" . }}
  imagePullPolicy: {{ $v.image.pullPolicy }}
  command: [tta-server]
  args: [serve]
  env:
    {{- include "tta.environment" . | nindent 4 }}
  {{- with $v.envFrom }}
  envFrom:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  ports:
    - {name: http, containerPort: 8000, protocol: TCP}
    - {name: grpc, containerPort: 8001, protocol: TCP}
  startupProbe:
    httpGet: {path: /livez, port: http, scheme: {{ $scheme }}}
    periodSeconds: 2
    timeoutSeconds: 2
    failureThreshold: {{ div (add1 $v.startupSeconds) 2 }}
  livenessProbe:
    httpGet: {path: /livez, port: http, scheme: {{ $scheme }}}
    periodSeconds: 10
    timeoutSeconds: 5
    failureThreshold: 3
  readinessProbe:
    httpGet: {path: /readyz, port: http, scheme: {{ $scheme }}}
    periodSeconds: 2
    timeoutSeconds: 2
    failureThreshold: 2
  lifecycle:
    preStop:
      sleep: {seconds: {{ $v.preStopSeconds }}}
  resources:
    {{- include "tta.resources" . | nindent 4 }}
  securityContext:
    {{- include "tta.securityContext" . | nindent 4 }}
  volumeMounts:
    - {name: tmp, mountPath: /tmp}
    {{- include "tta.modelMounts" . | nindent 4 }}
    {{- if $v.auth.keys.secretName }}
    - {name: keys, mountPath: /etc/tta-server/keys, readOnly: true}
    {{- end }}
    {{- if $v.tls.secretName }}
    - {name: tls, mountPath: /etc/tta-server/tls, readOnly: true}
    {{- end }}
    {{- with $v.extraVolumeMounts }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end }}

{{- define "tta.environment" -}}
- {name: TTA_PORT, value: "8000"}
- {name: TTA_GRPC_PORT, value: "8001"}
{{- with include "tta.modelsPath" . }}
- {name: TTA_MODELS, value: {{ . | quote }}}
{{- end }}
{{- if .Values.auth.keys.secretName }}
- {name: TTA_KEYS, value: /etc/tta-server/keys/keys}
{{- end }}
{{- if .Values.tls.secretName }}
- {name: TTA_TLS_CERT, value: /etc/tta-server/tls/tls.crt}
- {name: TTA_TLS_KEY, value: /etc/tta-server/tls/tls.key}
{{- end }}
{{- range $name, $value := .Values.settings }}
- {name: TTA_{{ upper $name }}, value: {{ include "tta.text" $value | quote }}}
{{- end }}
- {name: HOME, value: /tmp}
{{- with .Values.env }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "tta.resources" -}}
{{- $resources := deepCopy .Values.resources -}}
{{- if .Values.gpu.enabled }}
{{- $gpu := dict .Values.gpu.resource (int .Values.gpu.count) }}
{{- $resources = mergeOverwrite $resources (dict "limits" $gpu "requests" $gpu) }}
{{- end }}
{{- toYaml $resources }}
{{- end }}

{{/* rclone copies folders of s3:// and gs://; the server's image fetches an archive with its Python. */}}
{{- define "tta.fetchContainer" -}}
{{- $fetch := .Values.models.fetch -}}
{{- $url := urlParse $fetch.url -}}
{{- $isArchive := hasPrefix "http" $url.scheme -}}
- name: fetch-models
  {{- if $isArchive }}
  image: {{ include "tta.image" . }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  command: [python, /etc/tta-server/fetch/fetch.py]
  args: [{{ $fetch.url | quote }}, /models{{ with $fetch.sha256 }}, --sha256, {{ . | quote }}{{ end }}]
  {{- else }}
  image: {{ $fetch.image }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  command: [rclone]
  args:
    - copy
    - --config=/dev/null
    - --retries=5
    - {{ printf ":%s,env_auth=true:%s%s" (ternary "s3" "gcs" (eq $url.scheme "s3")) $url.host $url.path | quote }}
    - /models
  {{- end }}
  env:
    - {name: HOME, value: /tmp}
    {{- if eq $url.scheme "s3" }}
    - {name: RCLONE_S3_PROVIDER, value: {{ ternary "Other" "AWS" (ne $fetch.s3Endpoint "") }}}
    {{- with $fetch.s3Endpoint }}
    - {name: RCLONE_S3_ENDPOINT, value: {{ . | quote }}}
    {{- end }}
    {{- end }}
    {{- with $fetch.env }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with $fetch.envSecret }}
  envFrom:
    - secretRef: {name: {{ . }}}
  {{- end }}
  resources:
    {{- toYaml .Values.resources | nindent 4 }}
  securityContext:
    {{- include "tta.securityContext" . | nindent 4 }}
  volumeMounts:
    - {name: tmp, mountPath: /tmp}
    - {name: models, mountPath: /models}
    {{- if $isArchive }}
    - {name: fetch, mountPath: /etc/tta-server/fetch, readOnly: true}
    {{- end }}
{{- end }}
